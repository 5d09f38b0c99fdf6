"""ConvSpace: what a controller chooses of, and how its tokens are read as a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ofa_kit.nas.nas_rl.conv_net import ConvLayer, ConvNet


@dataclass(frozen=True, kw_only=True)
class ConvSpace:
    """Choices of every layer. What has one choice only needs no token.

    The tokens of a layer: filter height, filter width, stride height, stride width, filters, then for each earlier
    layer whether its output is read.
    """

    filter_heights: tuple[int, ...] = (1, 3, 5, 7)
    filter_widths: tuple[int, ...] = (1, 3, 5, 7)
    stride_heights: tuple[int, ...] = (1,)
    stride_widths: tuple[int, ...] = (1,)
    filters: tuple[int, ...] = (24, 36, 48, 64)
    skips: bool = True
    """Whether layers choose what they read; else each reads the one before it."""

    @property
    def kinds(self) -> tuple[tuple[int, ...], ...]:
        """Return the choices of a layer in the order of their tokens."""
        return self.filter_heights, self.filter_widths, self.stride_heights, self.stride_widths, self.filters

    @property
    def open_kinds(self) -> tuple[tuple[int, ...], ...]:
        """Return those that need a token."""
        return tuple(choices for choices in self.kinds if len(choices) > 1)

    def size(self, layers: int) -> int:
        """Return how many token sequences of so many layers there are."""
        reads = layers * (layers - 1) // 2 if self.skips else 0
        return int(prod(map(len, self.kinds)) ** layers * 2**reads)

    def depth(self, tokens: int) -> int:
        """Return the layers that so many tokens describe."""
        layers = count = 0
        while count < tokens:
            count += len(self.open_kinds) + (layers if self.skips else 0)
            layers += 1
        assert count == tokens, f"{tokens} tokens are not those of whole layers"
        return layers

    def read(self, tokens: Sequence[int]) -> ConvNet:
        """Return the network of a token sequence."""
        left, layers = iter(tokens), []
        for number in range(1, self.depth(len(tokens)) + 1):
            height, width, stride_height, stride_width, filters = (
                choices[next(left)] if len(choices) > 1 else choices[0] for choices in self.kinds
            )
            if self.skips:
                inputs = tuple(earlier for earlier in range(1, number) if next(left))
            else:
                inputs = (number - 1,) if number > 1 else ()
            layers.append(ConvLayer(height, width, filters, stride_height, stride_width, inputs))
        return ConvNet(tuple(layers))
