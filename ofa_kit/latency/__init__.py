"""Measuring how long networks take on a device. No torch: this package runs on a board."""
