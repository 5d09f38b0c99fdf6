"""What may be chosen in each part of a network: stem convolutions, stages and their blocks, head."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

Activation = Literal["relu", "relu6", "hard_swish", "swish", "none"]
Gate = Literal["hard_sigmoid", "sigmoid"]


class Operation(IntEnum):
    """What a choice block may be (Guo et al. 2020), by the number that published architectures give it."""

    SHUFFLE3 = 0
    SHUFFLE5 = 1
    SHUFFLE7 = 2
    XCEPTION = 3

    @property
    def kernel_size(self) -> int:
        return (3, 5, 7, 3)[self]

    @property
    def word(self) -> str:
        """Return its name in table rows."""
        return self.name.lower()


@dataclass(frozen=True, kw_only=True)
class ConvSpace:
    """One convolution of the stem, with batch norm and activation."""

    widths: tuple[int, ...]
    """Output channels; a `residual` one has those of the convolution before it, and () here."""
    kernel_size: int = 3
    stride: int = 1
    activation: Activation
    residual: bool = False
    """Adds its input to its output, and may be left out."""
    presence: tuple[int, ...] = (0, 1)
    """Whether a residual one is left out (0) or there (1)."""
    elastic: bool = False
    """Whether architectures name its width; stays so when a sub-space leaves one width."""


@dataclass(frozen=True, kw_only=True)
class BlockSpace:
    """The choices of one block, where a stage's blocks differ."""

    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    squeeze_channels: int = 0
    """Hidden channels of its squeeze-and-excite; 0 = none."""
    operations: tuple[Operation, ...] = ()
    weight_bits: tuple[int, ...] = ()
    activation_bits: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageSpace:
    """The choices of one stage, and what is fixed in it."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    """Hidden channels by input channels (inverted residual), output channels (bottleneck) or half of them (choice)."""
    stride: int
    activation: Activation
    squeeze_excite: bool = False
    block: Literal["inverted_residual", "bottleneck", "choice"] = "inverted_residual"
    shared: bool = False
    """One kernel_size and one expand_ratio for all blocks of the stage."""
    blocks: tuple[BlockSpace, ...] = ()
    """Choices of each block instead of the stage's; () where all are the same."""
    squeeze_activation: Activation = "relu"
    gate: Gate = "hard_sigmoid"
    projected: bool = False
    """Inverted residuals that change shape have a shortcut too: average pooling, 1x1 convolution without batch norm."""
    downsample: Literal["conv", "avgpool_conv"] = "avgpool_conv"
    """Shortcut of a bottleneck that changes shape: 1x1 convolution with the stride, or after average pooling."""
    operations: tuple[Operation, ...] = ()
    """What a block of a choice stage may be, in the order of multiply-adds; kernel sizes follow from it."""
    weight_bits: tuple[int, ...] = ()
    """Bits of a bottleneck's weights; () where nothing is quantised."""
    activation_bits: tuple[int, ...] = ()
    """Bits of what its convolutions read."""

    @property
    def max_depth(self) -> int:
        return max(self.depths)

    def choices_of(self, block: int) -> dict[str, Sequence[Any]]:
        """Return what may be chosen of a block, by kind, in genome order."""
        source = self.blocks[block] if self.blocks else self
        choices: dict[str, Sequence[Any]] = (
            {"operation": source.operations} if self.block == "choice" else {"kernel_size": source.kernel_sizes}
        )
        choices["expand_ratio"] = source.expand_ratios
        if self.weight_bits:
            choices |= {"weight_bits": source.weight_bits, "activation_bits": source.activation_bits}
        return choices


@dataclass(frozen=True, kw_only=True)
class HeadSpace:
    """What follows the stages, before the classifier; everything after the first convolution sees pooled features."""

    activation: Activation = "hard_swish"
    conv_width: int = 0
    """Output channels of a 1x1 convolution with batch norm before pooling; 0 = none."""
    conv_expand_ratio: int = 0
    """Instead of `conv_width`: its channels by those of the last stage."""
    feature_widths: tuple[int, ...] = ()
    """Output channels of a 1x1 convolution without batch norm after pooling; () = none."""
    feature_bias: bool = False
    elastic: bool = False
    """Whether architectures name the feature width."""
    classifier_bias: bool = True
