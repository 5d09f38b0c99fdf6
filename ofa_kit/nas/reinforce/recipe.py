"""What recipes of all searches by a controller share: how it learns, and what latency does to its rewards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ofa_kit.config import parse, refuse_below, refuse_not_above
from ofa_kit.errors import RecipeError
from ofa_kit.nas.reinforce.policy import PolicyRecipe
from ofa_kit.nas.reinforce.reward import SOFT_WEIGHT, LatencyTerm


@dataclass(frozen=True, kw_only=True)
class LatencyReward:
    """The latency's part in a reward."""

    latency_target_ms: float | None = None
    """The reward is multiplied by (latency / target) ** latency_weight (Tan et al. 2019); null: latency is worth 0."""
    latency_weight: float = SOFT_WEIGHT
    latency_hard: bool = False
    """Instead: no reward for what is slower than the target, the whole for what is faster."""

    @property
    def latency_term(self) -> LatencyTerm | None:
        """Return what the latency does to rewards."""
        return LatencyTerm.of(self.latency_target_ms, self.latency_weight, hard=self.latency_hard)

    def check_latency(self, device: str | None, source: str) -> None:
        """Raise a RecipeError where a latency is asked for that nothing measures, or a weight without one."""
        if self.latency_term is not None and not device:
            raise RecipeError(f"{source}: latency_target_ms needs a device to measure on; give --device NAME")
        if self.latency_target_ms is None and (self.latency_hard or self.latency_weight != SOFT_WEIGHT):
            raise RecipeError(f"{source}: latency_weight and latency_hard need latency_target_ms; give --latency-ms")


@dataclass(frozen=True, kw_only=True)
class ControllerRecipe(LatencyReward):
    """A search of networks for images by a controller."""

    controller_lr: float
    """Adam's."""
    baseline_decay: float
    """Share of the old moving average of rewards that a round leaves."""
    entropy_weight: float = 0.0
    device: str = ""
    """Device profile on which what a reward needs and the result are timed; "" = none."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> Self:
        """Check the values; a RecipeError or UnknownNameError says what is wrong."""
        recipe = parse(cls, values, source)
        recipe.check(source)
        return recipe

    def check(self, source: str) -> None:
        """Raise a RecipeError where a number cannot be."""
        refuse_below(0, self, ("entropy_weight",), source)
        refuse_not_above(0, self, ("controller_lr",), source)
        if not 0 <= self.baseline_decay < 1:
            raise RecipeError(f"{source}: baseline_decay must be in 0..1 (1 excluded), found {self.baseline_decay}")
        self.check_latency(self.device, source)

    @property
    def policy(self) -> PolicyRecipe:
        """Return how the controller learns."""
        return PolicyRecipe(
            lr=self.controller_lr, entropy_weight=self.entropy_weight, baseline_decay=self.baseline_decay
        )
