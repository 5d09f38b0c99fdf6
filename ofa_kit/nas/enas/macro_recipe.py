"""MacroRecipe: everything that decides a macro search, as read from profiles/recipes/enas-macro-*.yaml."""

from dataclasses import dataclass, replace
from typing import Literal

from ofa_kit.config import refuse_below
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.errors import RecipeError
from ofa_kit.nas.enas.macro_controller import SKIP_TARGET
from ofa_kit.nas.enas.macro_plan import MacroShape
from ofa_kit.nas.enas.recipe import EnasRecipe
from ofa_kit.nas.reinforce.policy import PolicyRecipe


@dataclass(frozen=True, kw_only=True)
class MacroRecipe(EnasRecipe):
    """How whole networks are searched."""

    kind: Literal["macro"] = "macro"
    layers: int = 12
    channels: int = 36
    """Of every layer of the child."""
    epochs: int = 310
    batch_size: int = 128
    weight_decay: float = 2.5e-4
    controller_lr: float = 1e-3
    controller_updates: int = 50
    controller_samples: int = 20
    skip_target: float = SKIP_TARGET
    """Share of skip connections that the controller is drawn to."""
    skip_weight: float = 0.8
    """Weight of the divergence from it in the controller's loss."""
    network_channels: int = 96
    """Of the first layers of the network that the arc is for; each reduction doubles them."""

    def check(self, source: str) -> None:
        super().check(source)
        refuse_below(1, self, ("layers", "channels"), source)
        refuse_below(0, self, ("skip_weight",), source)
        if not 0 < self.skip_target < 1:
            raise RecipeError(f"{source}: skip_target must be between 0 and 1, found {self.skip_target}")
        if self.layers < 2:
            raise RecipeError(f"{source}: layers must be at least 2, found {self.layers}: one has no skip connections")

    @property
    def policy(self) -> PolicyRecipe:
        return replace(super().policy, penalty_weight=self.skip_weight)

    def child_shape(self, info: DatasetInfo) -> MacroShape:
        """Return the child's shape on such data."""
        return self._shape(info, self.channels, widens=False)

    def network_shape(self, info: DatasetInfo) -> MacroShape:
        """Return the shape of the network that the arc is for."""
        return self._shape(info, self.network_channels, widens=True)

    def _shape(self, info: DatasetInfo, channels: int, *, widens: bool) -> MacroShape:
        return MacroShape(
            layers=self.layers,
            channels=channels,
            widens=widens,
            in_channels=info.in_channels,
            num_classes=info.num_classes,
            image_size=info.image_size,
        )
