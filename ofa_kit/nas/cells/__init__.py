"""Cells: small graphs of operations, their text form, pictures, the networks made of them."""
