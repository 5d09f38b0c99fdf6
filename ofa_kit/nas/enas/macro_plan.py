"""Where the layers of a macro network lie: channels, image size, and after which of them the size is halved."""

from dataclasses import dataclass

from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.plan import halved


@dataclass(frozen=True, kw_only=True)
class MacroShape:
    """What a macro network needs to be made, beside its arc."""

    layers: int
    channels: int
    """Of the stem and of the layers before the first reduction."""
    widens: bool = True
    """Whether reductions double the channels, as in a final network; the search's child keeps them."""
    in_channels: int = 3
    num_classes: int = 10
    image_size: int = 32

    def __post_init__(self) -> None:
        if min(self.layers, self.channels) < 1:
            raise RecipeError(
                f"a macro network needs layers and channels, found {self.layers} layers, {self.channels} channels"
            )
        size = self.image_size
        for _ in self.reductions:
            if size < 2:
                raise RecipeError(
                    f"images of {self.image_size} pixels are too small for {self.layers} layers; give larger ones"
                )
            size = halved(size)

    @property
    def image(self) -> tuple[int, int, int]:
        """Return the shape of an image (C, H, W)."""
        return self.in_channels, self.image_size, self.image_size

    @property
    def reductions(self) -> tuple[int, ...]:
        """Return the layers after which the size is halved: those that end the first and the second third."""
        third = self.layers // 3
        return (third - 1, 2 * third - 1) if third else ()

    def channels_of(self, layer: int) -> int:
        """Return the channels of a layer."""
        before = sum(reduction < layer for reduction in self.reductions)
        return self.channels * 2**before if self.widens else self.channels
