"""Units: the convolutions of a choice block (Guo et al. 2020), which are those of ShuffleNetV2 (Ma et al. 2018).

A unit of stride 1 leaves the even channels as they are and convolves the odd ones; one of stride 2 convolves all of
them twice, in a short branch and in the main one. Both concatenate the two, the main branch last.
"""

from dataclasses import dataclass
from typing import Literal

from ofa_kit.arch.choices import Activation

UnitOp = Literal["shuffle", "xception"]


@dataclass(frozen=True)
class UnitConv:
    """One convolution without bias, with batch norm after it; sizes in pixels."""

    part: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    input_size: int
    activation: Activation

    @property
    def depthwise(self) -> bool:
        return self.kernel_size > 1

    @property
    def groups(self) -> int:
        return self.in_channels if self.depthwise else 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.in_channels // self.groups, self.kernel_size, self.kernel_size

    @property
    def macs(self) -> int:
        return self.weights * (-(-self.input_size // self.stride)) ** 2

    @property
    def weights(self) -> int:
        return self.out_channels * (self.in_channels // self.groups) * self.kernel_size**2


@dataclass(frozen=True)
class Branches:
    """The two branches of a unit."""

    short: tuple[UnitConv, ...]
    """() where the even channels stay as they are."""
    main: tuple[UnitConv, ...]

    @property
    def convs(self) -> tuple[UnitConv, ...]:
        return self.short + self.main


def branches(
    op: UnitOp, channels: tuple[int, int, int], kernel_size: int, stride: int, size: int, activation: Activation
) -> Branches:
    """Return the branches of a unit with (in, hidden, out) channels on a map of `size` pixels."""
    (inside, hidden, outside), after = channels, -(-size // stride)
    source = inside if stride > 1 else inside // 2
    added = outside - source
    short: tuple[UnitConv, ...] = ()
    if stride > 1:
        short = (
            UnitConv("short_depthwise", source, source, kernel_size, stride, size, "none"),
            UnitConv("short_project", source, source, 1, 1, after, activation),
        )
    if op == "shuffle":
        main = (
            UnitConv("expand", source, hidden, 1, 1, size, activation),
            UnitConv("depthwise", hidden, hidden, kernel_size, stride, size, "none"),
            UnitConv("project", hidden, added, 1, 1, after, activation),
        )
        return Branches(short, main)
    return Branches(
        short,
        (
            UnitConv("depthwise0", source, source, kernel_size, stride, size, "none"),
            UnitConv("pointwise0", source, hidden, 1, 1, after, activation),
            UnitConv("depthwise1", hidden, hidden, kernel_size, 1, after, "none"),
            UnitConv("pointwise1", hidden, hidden, 1, 1, after, activation),
            UnitConv("depthwise2", hidden, hidden, kernel_size, 1, after, "none"),
            UnitConv("project", hidden, added, 1, 1, after, activation),
        ),
    )
