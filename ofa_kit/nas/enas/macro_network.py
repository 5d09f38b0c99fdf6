"""The network that a macro arc describes: what is trained from scratch after a search, measured and exported.

Built from the paper: separable operations are separable and pools are there, which the authors' code leaves out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ofa_kit.errors import WeightsError
from ofa_kit.nas.cells.ends import pooled
from ofa_kit.nas.cells.network import Dropout
from ofa_kit.nas.cells.operations import FactorizedReduce, Norm, ReLUConvNorm, batch_norm, pointwise, separable
from ofa_kit.nas.enas.macro_arc import MacroArc
from ofa_kit.nas.enas.macro_plan import MacroShape


class MacroLayerModule(nn.Module):
    """ReLU, 1x1 convolution and batch norm, the operation, and a 1x1 convolution that joins what is added."""

    def __init__(self, operation: str, added: int, channels: int, norm: Norm = batch_norm, *, joins: bool) -> None:
        super().__init__()
        self.operation = layer_operation(operation, channels, norm)
        self.join = pointwise((added + 1) * channels, channels, norm) if joins else None

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Map the output before and those that are added, (N, C, S, S) each, to (N, C, S, S)."""
        out: Tensor = self.operation(x)
        return out if self.join is None else self.join(torch.cat([*skips, out], 1))


class MacroNetwork(nn.Module):
    """Stem, layers, classifier without bias."""

    def __init__(self, arc: MacroArc, shape: MacroShape) -> None:
        super().__init__()
        if len(arc.layers) != shape.layers:
            raise WeightsError(f"the arc has {len(arc.layers)} layers and the network {shape.layers}")
        self.arc, self.shape = arc, shape
        self.stem = macro_stem(shape)
        self.layers = nn.ModuleList(
            MacroLayerModule(layer.operation, len(layer.skips), shape.channels_of(number), joins=number > 0)
            for number, layer in enumerate(arc.layers)
        )
        self.reductions = nn.ModuleDict(
            {
                str(number): nn.ModuleDict(
                    {
                        str(place): FactorizedReduce(
                            shape.channels_of(number), shape.channels_of(number + 1), batch_norm, activates=False
                        )
                        for place in arc.read_after(number)
                    }
                )
                for number in shape.reductions
            }
        )
        self.classifier = nn.Linear(shape.channels_of(shape.layers - 1), shape.num_classes, bias=False)

    def forward(self, images: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Map images (N, C, S, S) to logits (N, classes)."""
        outputs = {0: self.stem(images)}
        for number, (layer, module) in enumerate(zip(self.arc.layers, self.layers, strict=True)):
            outputs[number + 1] = module(outputs[number], [outputs[place] for place in layer.skips])
            if number in self.shape.reductions:
                outputs = {int(place): reduce(outputs[int(place)]) for place, reduce in self.reduced(number)}
        features = pooled(outputs[self.shape.layers])
        logits: Tensor = self.classifier(features if dropout is None else dropout(features))
        return logits

    def reduced(self, number: int) -> list[tuple[str, nn.Module]]:
        """Return what halves outputs after a layer, by the number of the output."""
        modules = self.reductions[str(number)]
        assert isinstance(modules, nn.ModuleDict)
        return list(modules.items())


def layer_operation(operation: str, channels: int, norm: Norm) -> nn.Sequential:
    """Return ReLU, 1x1 convolution, norm and what has a window."""
    return nn.Sequential(pointwise(channels, channels, norm), windowed(operation, channels, norm))


def macro_stem(shape: MacroShape, norm: Norm = batch_norm) -> nn.Sequential:
    """Return the 3x3 convolution before all layers."""
    conv = nn.Conv2d(shape.in_channels, shape.channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, norm(shape.channels))


def windowed(operation: str, channels: int, norm: Norm) -> nn.Module:
    """Return what has a window in an operation of `channels` in and out: ReLU, convolutions and norm, or a pool."""
    kind, _, size = operation.rpartition("_")
    k = int(size[0])
    if kind == "max_pool":
        return nn.MaxPool2d(k, stride=1, padding=k // 2)
    if kind == "avg_pool":
        return nn.AvgPool2d(k, stride=1, padding=k // 2, count_include_pad=False)
    if kind == "sep_conv":
        return ReLUConvNorm(separable(channels, k, 1), norm)
    return ReLUConvNorm([nn.Conv2d(channels, channels, k, padding=k // 2, bias=False)], norm)
