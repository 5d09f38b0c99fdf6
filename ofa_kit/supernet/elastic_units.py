"""Elastic choice block: each of its units has weights of its own (Guo et al. 2020); hidden channels are elastic."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.layer import Layer
from ofa_kit.arch.units import UnitConv
from ofa_kit.supernet.elastic import (
    Elastic,
    State,
    activate,
    batch_norm,
    batch_norm_slices,
    center,
    cut,
    normalize,
    pointwise,
)


class ElasticChoiceBlock(Elastic):
    """A unit for each kind and kernel size among the choices, as wide as its widest."""

    def __init__(self, choices: Sequence[Layer]) -> None:
        super().__init__()
        widest: dict[str, Layer] = {}
        for layer in sorted(choices, key=lambda layer: layer.hidden_channels):
            widest[unit_name(layer)] = layer
        self.units = nn.ModuleDict({name: unit_modules(widest[name]) for name in sorted(widest)})

    def forward(self, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:
        state = self.active_state(layer)

        def run(convs: Sequence[UnitConv], y: Tensor) -> Tensor:
            for conv in convs:
                y = convolve(conv, y, state[f"{conv.part}.weight"])
                y = activate(conv.activation, normalize(self, y, state, f"{conv.part}_bn", layer.bn_eps))
            return y

        kept, convolved = parts_of(x, layer)
        return torch.cat((run(layer.branches.short, kept), run(layer.branches.main, convolved)), 1)

    def active_state(self, layer: Layer) -> State:
        unit, state = self.units[unit_name(layer)], State()
        for conv in layer.branches.convs:
            full, norm = unit.get_submodule(conv.part), unit.get_submodule(f"{conv.part}_bn")
            assert isinstance(full, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            state[f"{conv.part}.weight"] = cut(full.weight, *conv.weight_shape[:2])
            state |= batch_norm_slices(norm, f"{conv.part}_bn", conv.out_channels)
        return state


def unit_name(layer: Layer) -> str:
    """Return the name of the unit that holds a layer's weights."""
    return f"{layer.op}{layer.kernel_size}"


def unit_modules(layer: Layer) -> nn.ModuleDict:
    """Return the convolutions of a unit and their batch norms, by the names that static layers give them."""
    modules: dict[str, nn.Module] = {}
    for conv in layer.branches.convs:
        channels, k = (conv.in_channels, conv.out_channels), conv.kernel_size
        modules[conv.part] = nn.Conv2d(*channels, k, conv.stride, k // 2, groups=conv.groups, bias=False)
        modules[f"{conv.part}_bn"] = batch_norm(conv.out_channels, layer.bn_eps)
    return nn.ModuleDict(modules)


def parts_of(x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Return what the short and the main branch of a unit read."""
    return (x, x) if layer.stride > 1 else (x[:, ::2], x[:, 1::2])


def convolve(conv: UnitConv, x: Tensor, weight: Tensor) -> Tensor:
    """Return one convolution of a unit."""
    if not conv.depthwise:
        return pointwise(x, weight)
    # A kernel only ever meets offsets smaller than the map: what lies outside is padding times weight.
    kernel = center(weight, min(conv.kernel_size, 2 * conv.input_size - 1))
    return F.conv2d(x, kernel, stride=conv.stride, padding=kernel.shape[-1] // 2, groups=conv.groups)
