"""Subnet: an ordinary PyTorch network made of static layers, and its extraction from a supernet."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import Layer, layers
from ofa_kit.arch.space import SearchSpace
from ofa_kit.supernet.elastic import activate, batch_norm
from ofa_kit.supernet.supernet import Supernet


class Subnet(nn.Module):
    """One architecture as a plain network: images (N, C, R, R) to logits (N, classes)."""

    def __init__(self, space: SearchSpace, arch: ArchConfig) -> None:
        super().__init__()
        self.space, self.arch = space, arch
        self.specs: Sequence[Layer] = layers(space, arch)
        self.layers = nn.ModuleDict({layer.name: _static(layer) for layer in self.specs})

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for layer in self.layers.values():
            x = layer(x)
        return x


def extract(supernet: Supernet, arch: ArchConfig) -> Subnet:
    """Return the subnet with its own copy of the weights; it computes what `supernet(images, arch)` computes."""
    subnet = Subnet(supernet.space, arch)
    with torch.no_grad():
        for layer in subnet.specs:
            static = subnet.layers[layer.name]
            target = {**dict(static.named_parameters()), **dict(static.named_buffers())}
            for name, tensor in supernet.elastic(layer).active_state(layer).items():
                target[name].copy_(tensor)
    subnet.train(supernet.training)
    return subnet.to(memory_format=torch.channels_last)


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        k = layer.kernel_size
        self.conv = nn.Conv2d(layer.in_channels, layer.out_channels, k, layer.stride, k // 2, bias=False)
        self.bn = batch_norm(layer.out_channels)
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.activation, self.bn(self.conv(x)))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project, shortcut: each where the layer has it."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        hidden, k = layer.hidden_channels, layer.kernel_size
        if layer.expands:
            self.expand = nn.Conv2d(layer.in_channels, hidden, 1, bias=False)
            self.expand_bn = batch_norm(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, k, layer.stride, k // 2, groups=hidden, bias=False)
        self.depthwise_bn = batch_norm(hidden)
        if layer.squeeze_excite:
            self.se_reduce = nn.Conv2d(hidden, layer.squeeze_channels, 1)
            self.se_expand = nn.Conv2d(layer.squeeze_channels, hidden, 1)
        self.project = nn.Conv2d(hidden, layer.out_channels, 1, bias=False)
        self.project_bn = batch_norm(layer.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        identity, act = x, self.layer.activation
        if self.layer.expands:
            x = activate(act, self.expand_bn(self.expand(x)))
        x = activate(act, self.depthwise_bn(self.depthwise(x)))
        if self.layer.squeeze_excite:
            gate = F.relu(self.se_reduce(x.mean((2, 3), keepdim=True)))
            x = x * F.hardsigmoid(self.se_expand(gate))
        x = self.project_bn(self.project(x))
        return x + identity if self.layer.shortcut else x


class PooledConv(nn.Module):
    """Global average pool, 1x1 convolution, activation."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=False)
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.activation, self.conv(x.mean((2, 3), keepdim=True)))


class Classifier(nn.Linear):
    """Linear layer on (N, C, 1, 1) features."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def _static(layer: Layer) -> nn.Module:
    if layer.op == "conv":
        return ConvBlock(layer)
    if layer.op == "pooled_conv":
        return PooledConv(layer)
    if layer.op == "linear":
        return Classifier(layer.in_channels, layer.out_channels)
    return InvertedResidual(layer)
