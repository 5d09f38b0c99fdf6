"""Finding the best subnet under a budget, on predictions. No torch."""
