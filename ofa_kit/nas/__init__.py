"""The alternative searchers: they look for the inside of a cell that a network repeats."""
