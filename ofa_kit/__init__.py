"""ofa-kit: train a supernet once, specialize it for each device, export it proven."""

__version__ = "0.1.0"
