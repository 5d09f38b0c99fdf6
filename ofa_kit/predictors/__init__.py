"""Accuracy and latency of subnets that were not measured, predicted from those that were."""
