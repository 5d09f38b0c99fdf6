"""Profiling a board that has neither PyTorch nor this package: a kit to carry there, and its results brought back."""
