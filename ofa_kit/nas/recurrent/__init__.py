"""Recurrent cells: a language model around any of them, the search of DARTS, and training from scratch."""
