"""A ConvNet as a picture: layers from the image at the top to the classifier at the bottom, skip connections beside."""

from pathlib import Path

from ofa_kit.nas.chain_picture import Box, save_chain
from ofa_kit.nas.nas_rl.conv_net import ConvLayer, ConvNet


def save_picture(net: ConvNet, folder: Path, name: str = "network") -> list[Path]:
    """Write NAME.svg and NAME.png; needs matplotlib."""
    layers = [
        Box(f"{number}   {_label(layer)}", tuple(net.sources(number)))
        for number, layer in enumerate(net.layers, start=1)
    ]
    return save_chain([Box("image"), *layers, Box("join, mean, classifier", tuple(net.unread))], folder, name)


def _label(layer: ConvLayer) -> str:
    strides = (layer.stride_height, layer.stride_width)
    stride = "" if strides == (1, 1) else f", stride {strides[0]}x{strides[1]}"
    return f"{layer.filter_height}x{layer.filter_width}, {layer.filters}{stride}"
