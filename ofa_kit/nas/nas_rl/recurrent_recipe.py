"""RlRecurrentRecipe: the search of a recurrent cell by NAS-RL, as published (Zoph & Le 2017, sec. 3.4 and 4.2)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ofa_kit.errors import RecipeError
from ofa_kit.nas.recurrent.recipe import TrainRecipe, check_reading
from ofa_kit.nas.recurrent.reward import RewardedTextRecipe, RewardRecipe
from ofa_kit.nas.reinforce.policy import PolicyRecipe


@dataclass(frozen=True, kw_only=True)
class ControllerRecipe:
    """The controller's shape."""

    hidden: int = 35
    layers: int = 2
    init_range: float = 0.08


@dataclass(frozen=True, kw_only=True)
class RlTextRecipe:
    """The search: rounds of children that are trained from scratch."""

    base: int = 8
    """Leaves of the tree."""
    rounds: int = 1875
    """Updates of the controller; 15,000 children in all were published."""
    children: int = 8
    """Cells that are trained for each update."""
    child: TrainRecipe = field(default_factory=lambda: TrainRecipe(hidden=650, epochs=35))
    """How a child is trained; its validation perplexity is that of its best epoch."""
    reward: RewardRecipe = field(default_factory=lambda: RewardRecipe(power=2.0))
    controller: ControllerRecipe = field(default_factory=ControllerRecipe)
    policy: PolicyRecipe = field(default_factory=lambda: PolicyRecipe(lr=5e-4))


@dataclass(frozen=True, kw_only=True)
class RlRecurrentRecipe(RewardedTextRecipe):
    """Text, search by NAS-RL and training."""

    command: ClassVar[str] = "search nas-rl recurrent"
    options: ClassVar[Mapping[str, str]] = {**RewardedTextRecipe.options, "epochs": "search.child.epochs"}
    search: RlTextRecipe = field(default_factory=RlTextRecipe)

    def check(self, source: str) -> None:
        check_reading(self.search.child, f"{source}: search.child")
        super().check(source)
        for key in ("base", "rounds", "children"):
            if getattr(self.search, key) < 1:
                raise RecipeError(f"{source}: search.{key} must be at least 1, found {getattr(self.search, key)}")
