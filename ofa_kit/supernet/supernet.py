"""Supernet: all subnets of a space in one set of weights."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import Layer, layers
from ofa_kit.arch.space import SearchSpace
from ofa_kit.supernet.elastic import (
    ElasticConv,
    ElasticInvertedResidual,
    ElasticLayer,
    ElasticLinear,
    ElasticPooledConv,
)


class Supernet(nn.Module):
    """`supernet(images, arch)` returns the logits of one subnet; the architecture stands in the call."""

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.space = space
        self.layers = nn.ModuleDict({layer.name: _elastic(layer, space) for layer in layers(space, space.largest())})
        _initialize(self, generator or torch.Generator().manual_seed(0))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, arch: ArchConfig) -> Tensor:
        """Return logits (N, classes) for images (N, C, H, W), resized to the architecture's resolution."""
        x = resize(images, arch.resolution).contiguous(memory_format=torch.channels_last)
        for layer in layers(self.space, arch):
            x = self.elastic(layer)(x, layer)
        return x

    def elastic(self, layer: Layer) -> ElasticLayer:
        """Return the elastic layer that holds the weights of a static one."""
        return cast(ElasticLayer, self.layers[layer.name])


def resize(images: Tensor, resolution: int) -> Tensor:
    """Resize square images (N, C, H, H) with antialiased bilinear sampling; unchanged when the size is right."""
    if images.shape[-1] == resolution:
        return images
    return F.interpolate(images, size=(resolution, resolution), mode="bilinear", antialias=True)


def _elastic(layer: Layer, space: SearchSpace) -> ElasticLayer:
    if layer.op == "conv":
        return ElasticConv(layer)
    if layer.op == "pooled_conv":
        return ElasticPooledConv(layer)
    if layer.op == "linear":
        return ElasticLinear(layer)
    if layer.name.startswith("stage"):
        stage = int(layer.name.removeprefix("stage").split("_")[0])
        return ElasticInvertedResidual(layer, space.stages[stage].kernel_sizes)
    return ElasticInvertedResidual(layer, (layer.kernel_size,))


def _initialize(net: nn.Module, generator: torch.Generator) -> None:
    """He initialisation by fan-out for convolutions, small normal weights for the classifier."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01, generator=generator)
            nn.init.zeros_(module.bias)
