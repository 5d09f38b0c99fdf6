"""What a controller is paid for a recurrent cell: c / perplexity ** power, times what its latency is worth."""

import math
from dataclasses import dataclass
from typing import Protocol

from ofa_kit.errors import InfeasibleBudgetError, RecipeError, RunError
from ofa_kit.nas.recurrent.any_cell import AnyGenotype
from ofa_kit.nas.reinforce.reward import SOFT_WEIGHT, LatencyTerm


class CellLatency(Protocol):
    """Says how long a cell's language model takes for a token."""

    def __call__(self, genotype: AnyGenotype) -> float:
        """Return milliseconds."""
        ...


@dataclass(frozen=True, kw_only=True)
class RewardRecipe:
    """Reward of a cell."""

    scale: float = 80.0
    """c of both papers: the perplexity that is worth 1."""
    power: float = 1.0
    latency_target_ms: float | None = None
    """For one token, on the recipe's device; none = the latency is worth nothing."""
    latency_weight: float = SOFT_WEIGHT
    latency_hard: bool = False
    """Whether a cell that is slower than the target earns nothing."""

    @property
    def latency(self) -> LatencyTerm | None:
        """Return what the latency is worth."""
        return LatencyTerm.of(self.latency_target_ms, self.latency_weight, hard=self.latency_hard)

    def check(self, device: str | None, source: str) -> None:
        """Raise a RecipeError where no reward comes of it; `device` is the recipe's."""
        for key in ("scale", "power"):
            if not 0 < getattr(self, key) < math.inf:
                raise RecipeError(f"{source}.{key} must be above 0, found {getattr(self, key)}")
        if self.latency and device is None:
            raise RecipeError(
                f"{source}.latency_target_ms needs a device on which a token is timed; give `device: NAME`"
            )


def refuse_without_reward(recipe: RewardRecipe, best: float, fastest_ms: float | None) -> None:
    """Raise an InfeasibleBudgetError or a RunError where the best of all cells earned nothing."""
    if best > 0:
        return
    if recipe.latency is not None and fastest_ms is not None and recipe.latency.factor(fastest_ms) == 0:
        raise InfeasibleBudgetError(
            f"no cell takes {recipe.latency_target_ms:g} ms a token; the fastest drawn takes {fastest_ms:.4f} ms; "
            "raise latency_target_ms or search fewer nodes or features"
        )
    raise RunError("training diverged for every cell; start another run with a lower lr")


def reward_of(recipe: RewardRecipe, perplexity: float, latency_ms: float | None) -> float:
    """Return the reward; 0 for a cell that diverged."""
    reward = recipe.scale * perplexity**-recipe.power if math.isfinite(perplexity) else 0.0
    term = recipe.latency
    if term is None or latency_ms is None:
        return reward
    return reward * term.factor(latency_ms)
