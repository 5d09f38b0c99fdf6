"""Trained subnets as ONNX files that are checked against PyTorch."""
