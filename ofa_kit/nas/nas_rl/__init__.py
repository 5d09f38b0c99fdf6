"""NAS by reinforcement learning: a controller whose children are trained from scratch (Zoph & Le 2017)."""
