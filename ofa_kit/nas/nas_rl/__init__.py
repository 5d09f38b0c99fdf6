"""NAS-RL: a controller learns from the accuracy of children that it trains from scratch (Zoph & Le 2017)."""
