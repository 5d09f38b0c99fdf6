"""Layer: one static layer of a network, with everything that decides its arithmetic.

Counting follows MIT's once-for-all: MACs are the multiplies of convolution and linear weights (squeeze-and-excite
included; batch norm, bias, activation and pooling count zero), for one image; parameters leave running statistics out.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast, get_args

from ofa_kit.arch.choices import Activation, Gate
from ofa_kit.arch.units import Branches, UnitOp, branches

Op = Literal["conv", "max_pool", "inverted_residual", "bottleneck", "pooled_conv", "linear"] | UnitOp


@dataclass(frozen=True)
class Layer:
    """One static layer; sizes in pixels, channels as counts.

    `op` is one of: conv (conv, BN, activation), max_pool (3x3), inverted_residual (expand, depthwise,
    squeeze-and-excite, project), bottleneck (reduce, conv, expand), pooled_conv (global average
    pool, 1x1 conv without BN, activation), linear (global average pool where pixels are left), shuffle and xception
    (units.py).
    """

    name: str
    op: Op
    in_channels: int
    hidden_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    input_size: int
    activation: Activation
    squeeze_channels: int = 0
    """Hidden channels of squeeze-and-excite; 0 = none."""
    shortcut: bool = False
    """Adds its input to its output."""
    projected: bool = False
    """What the shortcut adds is average-pooled to the stride and goes through a 1x1 convolution to `out_channels`."""
    bias: bool = False
    """Of a pooled_conv."""
    downsample: Literal["conv", "avgpool_conv"] = "avgpool_conv"
    squeeze_activation: Activation = "relu"
    gate: Gate = "hard_sigmoid"
    bn_eps: float = 1e-5
    classifier_bias: bool = True
    """Of a linear."""
    weight_bits: int = 0
    """Of a bottleneck's convolutions; 0 = not quantised."""
    activation_bits: int = 0
    """Of what these convolutions read."""

    @property
    def output_size(self) -> int:
        return 1 if self.op in ("pooled_conv", "linear") else -(-self.input_size // self.stride)

    @property
    def expands(self) -> bool:
        """Whether an inverted residual starts with a 1x1 expansion."""
        return self.hidden_channels != self.in_channels

    @cached_property
    def key(self) -> str:
        """Name of everything that decides the latency: the primary key of a block row."""
        parts = [self.op, f"{self.in_channels}-{self.hidden_channels}-{self.out_channels}", f"k{self.kernel_size}"]
        parts += [f"s{self.stride}", f"r{self.input_size}", self.activation]
        if self.squeeze_channels:
            parts.append(f"se{self.squeeze_channels}")
            parts += [self.squeeze_activation, self.gate] if self.gate != "hard_sigmoid" else []
        parts += ["skip"] * self.shortcut + ["projected"] * self.projected + ["bias"] * self.bias
        parts += ["strided"] * (self.projected and self.downsample == "conv")
        parts += ["nobias"] * (not self.classifier_bias) + [
            f"w{self.weight_bits}a{self.activation_bits}"
        ] * self.quantized
        return ":".join(parts)

    @property
    def quantized(self) -> bool:
        return self.weight_bits > 0

    @cached_property
    def branches(self) -> Branches:
        """Return the convolutions of a unit; none of another layer."""
        if self.op not in get_args(UnitOp):
            return Branches((), ())
        channels = (self.in_channels, self.hidden_channels, self.out_channels)
        op = cast(UnitOp, self.op)
        return branches(op, channels, self.kernel_size, self.stride, self.input_size, self.activation)

    @property
    def bit_operations(self) -> int:
        """Return multiply-adds times the bits of both factors (BitOps, Guo et al. 2020); 0 where unquantised."""
        return self.macs * self.weight_bits * self.activation_bits

    @property
    def shortcut_conv(self) -> bool:
        """Whether a projected shortcut has weights: one of a bottleneck has always, else where channels change."""
        return self.projected and (self.op == "bottleneck" or self.in_channels != self.out_channels)

    @cached_property
    def macs(self) -> int:
        inside, outside = self.input_size**2, self.output_size**2
        if self.branches.main:
            return sum(conv.macs for conv in self.branches.convs)
        if self.op == "max_pool":
            return 0
        if self.op in ("pooled_conv", "linear"):
            return self.in_channels * self.out_channels
        if self.op == "conv":
            return self.kernel_size**2 * self.in_channels * self.out_channels * outside
        hidden = self.hidden_channels
        projected = self.in_channels * self.out_channels * outside if self.shortcut_conv else 0
        if self.op == "bottleneck":
            middle = (self.kernel_size**2 * hidden + self.out_channels) * hidden * outside
            return self.in_channels * hidden * inside + middle + projected
        expand = self.in_channels * hidden * inside if self.expands else 0
        squeeze = 2 * hidden * self.squeeze_channels
        return projected + expand + squeeze + (self.kernel_size**2 + self.out_channels) * hidden * outside

    @cached_property
    def params(self) -> int:
        hidden, middle, out = self.hidden_channels, self.squeeze_channels, self.out_channels
        if self.branches.main:
            return sum(conv.weights + 2 * conv.out_channels for conv in self.branches.convs)
        if self.op == "max_pool":
            return 0
        if self.op in ("pooled_conv", "linear"):
            return (self.in_channels + (self.bias or (self.op == "linear" and self.classifier_bias))) * out
        if self.op == "conv":
            return (self.kernel_size**2 * self.in_channels + 2) * out
        projected = self.in_channels * out if self.shortcut_conv else 0
        if self.op == "bottleneck":
            projected += 2 * out if self.projected else 0
            return (self.in_channels + self.kernel_size**2 * hidden + 4) * hidden + (hidden + 2) * out + projected
        expand = (self.in_channels + 2) * hidden if self.expands else 0
        squeeze = 2 * hidden * middle + hidden + middle if middle else 0
        return projected + expand + (self.kernel_size**2 + 2) * hidden + squeeze + (hidden + 2) * out


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never losing more than a tenth (MobileNetV2's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
