"""The network of a ConvNet in PyTorch: trained from scratch as a child, and again when it is the best one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.nas.cells.ends import pooled
from ofa_kit.nas.nas_rl.conv_net import IMAGE, ChildShape, ConvNet, Joint, PlacedLayer, PlacedNet


class ConvReluNorm(nn.Module):
    """Convolution, ReLU, batch norm, in this order (Zoph & Le 2017)."""

    def __init__(self, placed: PlacedLayer) -> None:
        super().__init__()
        layer = placed.layer
        size = (layer.filter_height, layer.filter_width)
        self.conv = nn.Conv2d(
            placed.reads.channels,
            layer.filters,
            size,
            stride=(layer.stride_height, layer.stride_width),
            padding=(size[0] // 2, size[1] // 2),
        )
        self.norm = nn.BatchNorm2d(layer.filters)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, filters, H / stride, W / stride), rounded up."""
        found: Tensor = self.norm(torch.relu(self.conv(x)))
        return found


class ConvChild(nn.Module):
    """Layers, then a classifier of the mean over rows and columns of all outputs that no layer reads.

    The paper does not say how its classifier takes images of any size; the mean does.
    """

    def __init__(self, net: ConvNet, shape: ChildShape) -> None:
        super().__init__()
        self.net, self.shape = net, shape
        self.placed = PlacedNet.of(net, shape)
        self.layers = nn.ModuleList(ConvReluNorm(placed) for placed in self.placed.layers)
        self.classifier = nn.Linear(self.placed.reads.channels, shape.num_classes)

    @classmethod
    def fresh(cls, net: ConvNet, shape: ChildShape, seed: int) -> "ConvChild":
        """Return a network whose weights are drawn with a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(net, shape)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, S, S) to logits (N, classes)."""
        outputs = {IMAGE: images}
        for number, (layer, placed) in enumerate(zip(self.layers, self.placed.layers, strict=True), start=1):
            outputs[number] = layer(joined(placed.reads, outputs))
        logits: Tensor = self.classifier(pooled(joined(self.placed.reads, outputs)))
        return logits


def joined(joint: Joint, outputs: dict[int, Tensor]) -> Tensor:
    """Return the outputs (N, C_i, H_i, W_i) of several layers as one (N, C, H, W)."""
    parts = [
        F.pad(outputs[source], (0, joint.width - width, 0, joint.height - height))
        if (height, width) != (joint.height, joint.width)
        else outputs[source]
        for source, (height, width) in zip(joint.sources, joint.sizes, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
