"""DARTS (Liu et al. 2019): search by gradients through a mixture of all operations."""
