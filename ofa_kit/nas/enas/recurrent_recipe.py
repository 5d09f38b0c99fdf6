"""EnasRecurrentRecipe: the search of a recurrent cell by ENAS, as published (Pham et al. 2018, sec. 3.1)."""

from dataclasses import dataclass, field
from typing import ClassVar

from ofa_kit.errors import RecipeError
from ofa_kit.nas.recurrent.recipe import ReadingRecipe, check_reading
from ofa_kit.nas.recurrent.reward import RewardedTextRecipe, RewardRecipe
from ofa_kit.nas.reinforce.policy import PolicyRecipe


@dataclass(frozen=True, kw_only=True)
class ControllerRecipe:
    """The controller's shape."""

    hidden: int = 100
    temperature: float = 5.0
    tanh_constant: float = 2.5
    init_range: float = 0.1


@dataclass(frozen=True, kw_only=True)
class EnasTextRecipe(ReadingRecipe):
    """The search: epochs of the shared weights, each followed by rounds of the controller."""

    nodes: int = 12
    """All nodes, the first one included."""
    hidden: int = 720
    epochs: int = 150
    batch: int = 64
    lr_decay: float = 0.96
    """Factor of lr from one epoch to the next, from `decay_start` on."""
    decay_start: int = 15
    weight_decay: float = 1e-7
    change_penalty: float = 5e-4
    rounds: int = 2000
    """Updates of the controller after each epoch."""
    samples: int = 1
    """Cells that are judged for each update."""
    reward_rows: int = 35
    """Rows of the validation text that a round's cells are judged on, each from an empty state."""
    derive_samples: int = 100
    """Cells that the trained controller draws; the best on all of the validation text is the one that is found."""
    reward: RewardRecipe = field(default_factory=RewardRecipe)
    controller: ControllerRecipe = field(default_factory=ControllerRecipe)
    policy: PolicyRecipe = field(
        default_factory=lambda: PolicyRecipe(lr=3.5e-4, beta1=0.0, eps=1e-3, entropy_weight=1e-4)
    )


@dataclass(frozen=True, kw_only=True)
class EnasRecurrentRecipe(RewardedTextRecipe):
    """Text, search by ENAS and training."""

    command: ClassVar[str] = "search enas"
    search: EnasTextRecipe = field(default_factory=EnasTextRecipe)

    def check(self, source: str) -> None:
        search = self.search
        check_reading(search, f"{source}: search")
        super().check(source)
        if search.nodes < 2:
            raise RecipeError(f"{source}: search.nodes must be at least 2, found {search.nodes}")
        for key in ("rounds", "samples", "reward_rows", "derive_samples"):
            if getattr(search, key) < 1:
                raise RecipeError(f"{source}: search.{key} must be at least 1, found {getattr(search, key)}")
        if not 0 < search.lr_decay <= 1 or search.decay_start < 0:
            raise RecipeError(f"{source}: search.lr_decay must be in 0..1 (0 excluded), decay_start at least 0")
