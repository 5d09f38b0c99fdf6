"""Where the cells of a network lie: channels, image size and strides of each, for networks and latency alike."""

from dataclasses import dataclass
from typing import Literal

from ofa_kit.errors import RecipeError

Stem = Literal["small-images", "photos"]
"""One convolution that keeps the size (CIFAR), or three of stride 2 (ImageNet)."""
Layout = Literal["darts", "enas"]
"""Whose network the cells stand in.

ENAS's has a 1x1 convolution before a cell only where an input has other channels, and then one on the second input
always; skip-connections of stride 2 without ReLU, and never dropped; ReLU before the classifier, which has no bias; the
auxiliary head one cell later; drop-path that grows from cell to cell. The cells that halve are DARTS's: the same ones
where there are 3n + 2 cells, as in the published networks.
"""
STEM_MULTIPLIER = 3
PHOTO_STEM_STRIDES = 8


@dataclass(frozen=True)
class CellPlace:
    """One cell of a network."""

    index: int
    reduction: bool
    after_reduction: bool
    """Whether the cell's first input is still twice as large."""
    channels: int
    """Channels of each inner node."""
    in_size: int
    """Rows and columns of the second input."""

    @property
    def out_size(self) -> int:
        return halved(self.in_size) if self.reduction else self.in_size

    def stride(self, source: int) -> int:
        """Return the stride of an edge that reads node `source`."""
        return 2 if self.reduction and source < 2 else 1

    def size(self, source: int) -> int:
        """Return rows and columns of what an edge from node `source` reads."""
        return self.in_size if source < 2 else self.out_size


def places(*, cells: int, channels: int, image_size: int, stem: Stem = "small-images") -> list[CellPlace]:
    """Return the cells in order; those at a third and two thirds halve the size and double the channels."""
    if min(cells, channels) < 1:
        raise RecipeError(
            f"a network needs at least one cell and one channel, found {cells} cells, {channels} channels"
        )
    size = image_size
    for _ in range(0 if stem == "small-images" else 3):
        size = halved(size)
    found = []
    after_reduction = stem == "photos"
    for index in range(cells):
        reduction = index in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduction else 1
        if size < 1 + reduction:
            raise RecipeError(f"images of {image_size} pixels are too small for {cells} cells; give larger ones")
        found.append(CellPlace(index, reduction, after_reduction, channels, size))
        size, after_reduction = found[-1].out_size, reduction
    return found


def auxiliary_index(cells: int, layout: Layout = "darts") -> int:
    """Return the cell whose output feeds the auxiliary head."""
    return min(cells - 1, 2 * cells // 3 + (layout == "enas"))


def halved(size: int) -> int:
    """Return rows and columns after a stride of 2."""
    return (size + 1) // 2
