"""The latency's part in a reward: accuracy times (latency / target) ** w (Tan et al. 2019, MnasNet)."""

import math
from dataclasses import dataclass
from typing import Self

from ofa_kit.errors import RecipeError

SOFT_WEIGHT = -0.07
"""MnasNet's: twice the latency is worth 5 % more accuracy."""


@dataclass(frozen=True)
class LatencyTerm:
    """Multiplies a reward: more than 1 for what is faster than the target, less for what is slower."""

    target_ms: float
    below: float = SOFT_WEIGHT
    """The exponent up to the target."""
    above: float = SOFT_WEIGHT
    """The exponent beyond it; minus infinity leaves no reward."""

    @classmethod
    def of(cls, target_ms: float | None, weight: float = SOFT_WEIGHT, *, hard: bool = False) -> Self | None:
        """Return what a recipe asks for: nothing, a soft constraint, or a hard one that counts beyond the target."""
        if target_ms is None:
            return None
        if not (math.isfinite(target_ms) and target_ms > 0):
            raise RecipeError(f"latency_target_ms is {target_ms}; give milliseconds above 0, or leave it out")
        if hard:
            return cls(target_ms, below=0.0, above=-math.inf)
        if weight > 0:
            raise RecipeError(f"latency_weight is {weight}, which rewards slow networks; give a negative exponent")
        return cls(target_ms, below=weight, above=weight)

    def factor(self, latency_ms: float) -> float:
        """Return the factor of a reward at a latency."""
        share = latency_ms / self.target_ms
        return float(share ** (self.below if share <= 1 else self.above))
