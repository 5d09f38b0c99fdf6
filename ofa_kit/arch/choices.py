"""What may be chosen in each part of a network: stem convolutions, stages and their blocks, head."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["relu", "relu6", "hard_swish", "swish", "none"]
Gate = Literal["hard_sigmoid", "sigmoid"]


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


@dataclass(frozen=True, kw_only=True)
class StageSpace:
    """The choices of one stage, and what is fixed in it."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    """Hidden channels by input channels (inverted residual) or by output channels (bottleneck)."""
    stride: int
    activation: Activation
    squeeze_excite: bool = False
    block: Literal["inverted_residual", "bottleneck"] = "inverted_residual"
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

    @property
    def max_depth(self) -> int:
        return max(self.depths)

    def kernel_sizes_of(self, block: int) -> tuple[int, ...]:
        return self.blocks[block].kernel_sizes if self.blocks else self.kernel_sizes

    def expand_ratios_of(self, block: int) -> tuple[float, ...]:
        return self.blocks[block].expand_ratios if self.blocks else self.expand_ratios


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
