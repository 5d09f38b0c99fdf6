"""Supernet: all subnets of a space in one set of weights."""

from collections.abc import Sequence
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import RESOLUTION, Slot, layers, slots
from ofa_kit.arch.space import SearchSpace
from ofa_kit.supernet.elastic import ElasticConv, ElasticLinear, ElasticMaxPool, ElasticPooledConv, Noise
from ofa_kit.supernet.elastic_blocks import ElasticBottleneck, ElasticInvertedResidual
from ofa_kit.supernet.elastic_units import ElasticChoiceBlock

ElasticLayer = (
    ElasticConv
    | ElasticMaxPool
    | ElasticInvertedResidual
    | ElasticBottleneck
    | ElasticChoiceBlock
    | ElasticPooledConv
    | ElasticLinear
)


class Supernet(nn.Module):
    """`supernet(images, arch)` returns the logits of one subnet; the architecture stands in the call."""

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.space = space
        self.layers = nn.ModuleDict({slot.name: _elastic(slot, space) for slot in slots(space)})
        _initialize(self, generator or torch.Generator().manual_seed(0))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, arch: ArchConfig, noise: Noise | None = None) -> Tensor:
        """Return logits (N, classes) for images (N, C, H, W), resized to the architecture's resolution."""
        x = resize(images, arch.resolution).contiguous(memory_format=torch.channels_last)
        net = layers(self.space, arch)
        keeps = [None] * len(net) if noise is None else _keeps(net, x, noise)
        for layer, keep in zip(net, keeps, strict=True):
            x = self.elastic(layer)(x, layer, keep)
        return x

    def elastic(self, layer: Layer) -> ElasticLayer:
        """Return the elastic layer that holds the weights of a static one."""
        return cast(ElasticLayer, self.layers[layer.name])


def resize(images: Tensor, resolution: int) -> Tensor:
    """Resize square images (N, C, H, H) with antialiased bilinear sampling; unchanged when the size is right."""
    if images.shape[-1] == resolution:
        return images
    return F.interpolate(images, size=(resolution, resolution), mode="bilinear", antialias=True)


def zero_last_gammas(supernet: Supernet) -> None:
    """Start every block with a shortcut as the identity (Goyal et al. 2017): the last gamma of its branch is 0."""
    for slot in slots(supernet.space):
        block = supernet.layers[slot.name]
        if isinstance(block, ElasticInvertedResidual | ElasticBottleneck) and all(
            layer.shortcut for layer in choices_of(slot, supernet.space)
        ):
            nn.init.zeros_(block.project_bn.weight)


def fix_affine(supernet: Supernet) -> None:
    """Leave every batch norm's gamma at 1 and beta at 0, as the supernet of Guo et al. (2020) has them."""
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)


def choices_of(slot: Slot, space: SearchSpace) -> Sequence[Layer]:
    """Return every layer that may stand in a slot, at the largest resolution."""
    choices = [
        (max(space.resolutions),) if place == RESOLUTION else space.genes[space.positions[place]].choices
        for place in slot.places
    ]
    return [slot.layer(dict(zip(slot.places, values, strict=True))) for values in product(*choices)]


def _keeps(net: Sequence[Layer], images: Tensor, noise: Noise) -> list[Tensor | None]:
    """Return for each layer what its branch (blocks) or its features (classifier) are multiplied by."""
    blocks = [layer.name for layer in net if layer.name.startswith("stage")]
    found: list[Tensor | None] = []
    for layer in net:
        if layer.op == "linear":
            found.append(_bernoulli((len(images), layer.in_channels), noise.dropout, images, noise.generator))
        elif layer.name in blocks:
            rate = noise.drop_connect * (blocks.index(layer.name) + 1) / len(blocks)
            found.append(_bernoulli((len(images), 1, 1, 1), rate, images, noise.generator))
        else:
            found.append(None)
    return found


def _bernoulli(shape: tuple[int, ...], rate: float, like: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return 0 with probability `rate`, else 1 / (1 - rate); None for a rate of 0."""
    if not rate:
        return None
    kept = (torch.rand(shape, generator=generator) >= rate).float() / (1 - rate)
    return kept.to(like.device, like.dtype)


def _elastic(slot: Slot, space: SearchSpace) -> ElasticLayer:
    choices = choices_of(slot, space)
    op = choices[0].op
    if op == "inverted_residual":
        return ElasticInvertedResidual(choices, kernel_transforms=space.kernel_transforms)
    if op == "max_pool":
        return ElasticMaxPool()
    if op == "bottleneck":
        return ElasticBottleneck(choices)
    if choices[0].branches.main:
        return ElasticChoiceBlock(choices)
    if op == "pooled_conv":
        return ElasticPooledConv(choices)
    return ElasticConv(choices) if op == "conv" else ElasticLinear(choices)


def _initialize(net: nn.Module, generator: torch.Generator) -> None:
    """He initialisation by fan-out for convolutions, small normal weights for the classifier."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
