"""The main paths, one a command: a plain Python API, read top to bottom."""
