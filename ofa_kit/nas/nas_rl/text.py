"""The text form of a ConvNet: `3x3*24; 5x7/2x1*36 (1); 1x3*48 (1,2)`.

One layer after the other: filter height x width, strides where they are not 1, filters, and in brackets the layers that
it reads where that is not the image.
"""

import re

from ofa_kit.errors import WeightsError
from ofa_kit.nas.nas_rl.conv_net import ConvLayer, ConvNet

NUMBER = r"([1-9][0-9]{0,5})"
LAYER = re.compile(rf"{NUMBER}x{NUMBER}(?:/{NUMBER}x{NUMBER})?\*{NUMBER}(?:\s*\(([0-9,\s]+)\))?")
EXAMPLE = "3x3*24; 5x7/2x1*36 (1); 1x3*48 (1,2)"


def write_conv_net(net: ConvNet) -> str:
    """Return the text form."""
    return "; ".join(_written(layer) for layer in net.layers)


def read_conv_net(text: str) -> ConvNet:
    """Return the network in a text; a WeightsError says which layer is none."""
    return ConvNet(tuple(_read(number, part) for number, part in enumerate(text.split(";"), start=1)))


def _written(layer: ConvLayer) -> str:
    strides = (layer.stride_height, layer.stride_width)
    stride = "" if strides == (1, 1) else f"/{strides[0]}x{strides[1]}"
    inputs = f" ({','.join(map(str, layer.inputs))})" if layer.inputs else ""
    return f"{layer.filter_height}x{layer.filter_width}{stride}*{layer.filters}{inputs}"


def _read(number: int, part: str) -> ConvLayer:
    found = LAYER.fullmatch(part.strip())
    if found is None:
        shown = " ".join(part.split())[:60]
        raise WeightsError(f"layer {number} of a network is '{shown}'; write layers as in '{EXAMPLE}'")
    height, width, stride_height, stride_width, filters = (int(value or 1) for value in found.groups()[:5])
    listed = (found.group(6) or "").split(",")
    if found.group(6) and not all(value.strip().isdecimal() for value in listed):
        raise WeightsError(f"layer {number} reads '({found.group(6)})'; list numbers of layers as in '{EXAMPLE}'")
    inputs = tuple(int(value) for value in listed if value.strip())
    return ConvLayer(height, width, filters, stride_height, stride_width, inputs)
