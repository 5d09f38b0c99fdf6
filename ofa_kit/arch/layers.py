"""The lowering: the one place that turns an architecture into a flat list of static layers.

MACs, parameters, latency keys, ONNX graphs and extracted modules all come from this list. Counting follows MIT's
once-for-all: MACs are the multiplies of convolution and linear weights (squeeze-and-excite included; batch norm,
bias, activation and pooling count zero), for one image; parameters leave running statistics out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.space import SearchSpace


@dataclass(frozen=True)
class Layer:
    """One static layer; sizes in pixels, channels as counts.

    `op` is one of: conv (conv, BN, activation), inverted_residual (expand, depthwise, squeeze-and-excite, project),
    pooled_conv (global average pool, 1x1 conv without BN or bias, activation), linear (with bias).
    """

    name: str
    op: str
    in_channels: int
    hidden_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    input_size: int
    activation: str
    squeeze_excite: bool = False
    shortcut: bool = False

    @property
    def output_size(self) -> int:
        return -(-self.input_size // self.stride)

    @property
    def expands(self) -> bool:
        """Whether an inverted residual starts with a 1x1 expansion."""
        return self.hidden_channels != self.in_channels

    @property
    def squeeze_channels(self) -> int:
        return make_divisible(self.hidden_channels // 4)

    @cached_property
    def key(self) -> str:
        """Name of everything that decides the latency: the primary key of a block row."""
        parts = [self.op, f"{self.in_channels}-{self.hidden_channels}-{self.out_channels}", f"k{self.kernel_size}"]
        parts += [f"s{self.stride}", f"r{self.input_size}", self.activation]
        parts += ["se"] * self.squeeze_excite + ["skip"] * self.shortcut
        return ":".join(parts)

    @cached_property
    def macs(self) -> int:
        pixels_in, pixels_out = self.input_size**2, self.output_size**2
        if self.op in ("pooled_conv", "linear"):
            return self.in_channels * self.out_channels
        if self.op == "conv":
            return self.kernel_size**2 * self.in_channels * self.out_channels * pixels_out
        expand = self.in_channels * self.hidden_channels * pixels_in if self.expands else 0
        depthwise = self.kernel_size**2 * self.hidden_channels * pixels_out
        squeeze = 2 * self.hidden_channels * self.squeeze_channels if self.squeeze_excite else 0
        return expand + depthwise + squeeze + self.hidden_channels * self.out_channels * pixels_out

    @cached_property
    def params(self) -> int:
        if self.op == "pooled_conv":
            return self.in_channels * self.out_channels
        if self.op == "linear":
            return (self.in_channels + 1) * self.out_channels
        if self.op == "conv":
            return (self.kernel_size**2 * self.in_channels + 2) * self.out_channels
        hidden, middle = self.hidden_channels, self.squeeze_channels
        expand = (self.in_channels + 2) * hidden if self.expands else 0
        depthwise = (self.kernel_size**2 + 2) * hidden
        squeeze = 2 * hidden * middle + hidden + middle if self.squeeze_excite else 0
        return expand + depthwise + squeeze + (hidden + 2) * self.out_channels


@lru_cache(maxsize=4096)
def layers(space: SearchSpace, arch: ArchConfig) -> tuple[Layer, ...]:
    """Return the layers of one architecture, input first."""
    found = list(_fixed_start(space, arch.resolution))
    width, size = space.first_width, found[-1].output_size
    for s, (stage, choices) in enumerate(zip(arch.stages, space.stages, strict=True)):
        for b, (kernel, expand) in enumerate(zip(stage.kernel_sizes, stage.expand_ratios, strict=True)):
            stride = choices.stride if b == 0 else 1
            block = Layer(
                name=f"stage{s}_block{b}",
                op="inverted_residual",
                in_channels=width,
                hidden_channels=make_divisible(round(width * expand)),
                out_channels=stage.width,
                kernel_size=kernel,
                stride=stride,
                input_size=size,
                activation=choices.activation,
                squeeze_excite=choices.squeeze_excite,
                shortcut=stride == 1 and width == stage.width,
            )
            found.append(block)
            width, size = stage.width, block.output_size
    return (*found, *_fixed_end(space, width, size))


def macs(space: SearchSpace, arch: ArchConfig) -> int:
    """Return the multiply-adds for one image."""
    return sum(layer.macs for layer in layers(space, arch))


def params(space: SearchSpace, arch: ArchConfig) -> int:
    """Return the number of parameters of the extracted subnet."""
    return sum(layer.params for layer in layers(space, arch))


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never losing more than a tenth (MobileNetV2's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _fixed_start(space: SearchSpace, resolution: int) -> Iterator[Layer]:
    stem = Layer("stem", "conv", space.in_channels, 0, space.stem_width, 3, space.stem_stride, resolution, "hard_swish")
    yield stem
    width, first = space.stem_width, space.first_width
    yield Layer(
        "first", "inverted_residual", width, width, first, 3, 1, stem.output_size, "relu", shortcut=width == first
    )


def _fixed_end(space: SearchSpace, width: int, size: int) -> Iterator[Layer]:
    final, feature = space.final_expand_width, space.feature_width
    yield Layer("final_expand", "conv", width, 0, final, 1, 1, size, "hard_swish")
    yield Layer("feature_mix", "pooled_conv", final, 0, feature, 1, 1, size, "hard_swish")
    yield Layer("classifier", "linear", feature, 0, space.num_classes, 1, 1, 1, "none")
