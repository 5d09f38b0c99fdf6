"""Families of spaces: each module holds the published geometry of one and makes its spaces."""
