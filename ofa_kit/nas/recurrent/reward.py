"""What a controller is paid for a recurrent cell: c / perplexity ** power, times what its latency is worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from ofa_kit.config import refuse_not_above
from ofa_kit.errors import InfeasibleBudgetError, RunError
from ofa_kit.nas.recurrent.any_cell import AnyGenotype
from ofa_kit.nas.recurrent.recipe import TextRecipe
from ofa_kit.nas.reinforce.recipe import LatencyReward


class CellLatency(Protocol):
    """Says how long a cell's language model takes for a token."""

    def __call__(self, genotype: AnyGenotype) -> float:
        """Return milliseconds."""
        ...


@dataclass(frozen=True, kw_only=True)
class RewardRecipe(LatencyReward):
    """Reward of a cell; its latency is that of a token, on the recipe's device."""

    scale: float = 80.0
    """c of both papers: the perplexity that is worth 1."""
    power: float = 1.0

    def check(self, device: str | None, source: str) -> None:
        """Raise a RecipeError where no reward comes of it; `device` is the recipe's."""
        refuse_not_above(0, self, ("scale", "power"), source)
        self.check_latency(device, source)


class Rewarded(Protocol):
    """A search by rewards."""

    @property
    def reward(self) -> RewardRecipe: ...


@dataclass(frozen=True, kw_only=True)
class RewardedTextRecipe(TextRecipe):
    """Text, a search of cells by a controller, and training."""

    options: ClassVar[Mapping[str, str]] = {
        "epochs": "search.epochs",
        "latency_target_ms": "search.reward.latency_target_ms",
        "latency_weight": "search.reward.latency_weight",
        "latency_hard": "search.reward.latency_hard",
    }
    kind: Literal["recurrent"] = "recurrent"
    device: str | None = None
    """Device profile on which a token is timed: of the models in the end, and for the reward."""
    search: Rewarded

    def check(self, source: str) -> None:
        super().check(source)
        self.search.reward.check(self.device, f"{source}: search.reward")


def refuse_without_reward(recipe: RewardRecipe, best: float, fastest_ms: float | None) -> None:
    """Raise an InfeasibleBudgetError or a RunError where the best of all cells earned nothing."""
    if best > 0:
        return
    if recipe.latency_term is not None and fastest_ms is not None and recipe.latency_term.factor(fastest_ms) == 0:
        raise InfeasibleBudgetError(
            f"no cell takes {recipe.latency_target_ms:g} ms a token; the fastest drawn takes {fastest_ms:.4f} ms; "
            "raise latency_target_ms or search fewer nodes or features"
        )
    raise RunError("training diverged for every cell; start another run with a lower lr")


def reward_of(recipe: RewardRecipe, perplexity: float, latency_ms: float | None) -> float:
    """Return the reward; 0 for a cell that diverged."""
    reward = recipe.scale * perplexity**-recipe.power if math.isfinite(perplexity) else 0.0
    term = recipe.latency_term
    if term is None or latency_ms is None:
        return reward
    return reward * term.factor(latency_ms)
