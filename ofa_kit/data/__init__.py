"""Image classification data: where it comes from, how it is split, how batches are made."""
