"""ConvNet: a plain convolutional network with skip connections, as a value, and what it is on images of a size."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from ofa_kit.errors import WeightsError

IMAGE = 0
"""Stands for the image where layers have their numbers, which begin at 1."""


@dataclass(frozen=True)
class ConvLayer:
    """Convolution, ReLU, batch norm; padding keeps the size but for the strides."""

    filter_height: int
    filter_width: int
    filters: int
    stride_height: int = 1
    stride_width: int = 1
    inputs: tuple[int, ...] = ()
    """Numbers of the earlier layers whose outputs it reads, joined; none: it reads the image."""

    def __post_init__(self) -> None:
        for size in (self.filter_height, self.filter_width):
            if size < 1 or size % 2 == 0:
                raise WeightsError(f"a filter of {self.filter_height}x{self.filter_width}: sides must be odd")
        if min(self.filters, self.stride_height, self.stride_width) < 1:
            raise WeightsError(f"{self}: filters and strides must be at least 1")
        if list(self.inputs) != sorted(set(self.inputs)) or min(self.inputs, default=1) < 1:
            raise WeightsError(f"a layer reads {self.inputs}; list layers once, in order, from 1")


@dataclass(frozen=True)
class ConvNet:
    """Layers in order; the outputs that no other layer reads are joined before the classifier."""

    layers: tuple[ConvLayer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise WeightsError("a network needs at least one layer")
        for number, layer in enumerate(self.layers, start=1):
            if layer.inputs and layer.inputs[-1] >= number:
                raise WeightsError(f"layer {number} reads layer {layer.inputs[-1]}; it can read earlier ones only")

    @property
    def key(self) -> str:
        """Return 12 hex digits, the same for equal networks."""
        text = json.dumps(astuple(self), separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def unread(self) -> tuple[int, ...]:
        """Return the numbers of the layers that the classifier reads."""
        read = {number for layer in self.layers for number in layer.inputs}
        return tuple(number for number in range(1, len(self.layers) + 1) if number not in read)

    def sources(self, number: int) -> tuple[int, ...]:
        """Return what a layer reads: numbers of layers, or IMAGE."""
        return self.layers[number - 1].inputs or (IMAGE,)


@dataclass(frozen=True, kw_only=True)
class ChildShape:
    """What a network needs to be made, beside its layers."""

    in_channels: int = 3
    image_size: int = 32
    num_classes: int = 10

    @property
    def image(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        return self.in_channels, self.image_size, self.image_size


@dataclass(frozen=True)
class Joint:
    """Outputs joined along channels, the smaller ones padded with zeros at the bottom and at the right."""

    sources: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each, before padding."""
    channels: int

    @property
    def height(self) -> int:
        return max(height for height, _ in self.sizes)

    @property
    def width(self) -> int:
        return max(width for _, width in self.sizes)


@dataclass(frozen=True)
class PlacedLayer:
    """A layer on the images of a data set."""

    layer: ConvLayer
    reads: Joint

    @property
    def output(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        layer, reads = self.layer, self.reads
        return layer.filters, -(-reads.height // layer.stride_height), -(-reads.width // layer.stride_width)


@dataclass(frozen=True)
class PlacedNet:
    """The one reading of a ConvNet: PyTorch's network, ONNX's and the counts are made from it."""

    layers: tuple[PlacedLayer, ...]
    reads: Joint
    """What the classifier reads the mean over rows and columns of."""
    shape: ChildShape

    @classmethod
    def of(cls, net: ConvNet, shape: ChildShape) -> "PlacedNet":
        """Return what the layers are on images of this shape."""
        outputs: dict[int, tuple[int, int, int]] = {IMAGE: shape.image}
        placed = []
        for number, layer in enumerate(net.layers, start=1):
            placed.append(PlacedLayer(layer, _joint(net.sources(number), outputs)))
            outputs[number] = placed[-1].output
        return cls(tuple(placed), _joint(net.unread, outputs), shape)

    @property
    def macs(self) -> int:
        """Return the multiply-adds of convolutions and classifier for one image."""
        convs = sum(_weights(placed) * placed.output[1] * placed.output[2] for placed in self.layers)
        return convs + self.reads.channels * self.shape.num_classes

    @property
    def params(self) -> int:
        """Return how many numbers it learns: weights and biases, and batch norm's scale and shift."""
        layers = sum(_weights(placed) + 3 * placed.layer.filters for placed in self.layers)
        return layers + (self.reads.channels + 1) * self.shape.num_classes


def _joint(sources: Sequence[int], outputs: dict[int, tuple[int, int, int]]) -> Joint:
    found = [outputs[source] for source in sources]
    return Joint(
        tuple(sources), tuple((height, width) for _, height, width in found), sum(channels for channels, _, _ in found)
    )


def _weights(placed: PlacedLayer) -> int:
    layer = placed.layer
    return placed.reads.channels * layer.filter_height * layer.filter_width * layer.filters
