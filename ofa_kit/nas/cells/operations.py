"""The operations of a cell as PyTorch modules: each ReLU - convolutions - batch norm, as in DARTS (Liu et al. 2019)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.errors import UnknownNameError
from ofa_kit.nas.cells.dilated import DilatedDepthwise
from ofa_kit.nas.cells.genotype import OPERATIONS, SKIP
from ofa_kit.nas.cells.plan import Layout

Norm = Callable[[int], nn.Module]
"""Makes the batch norm of so many channels."""


class Learned(nn.Module):
    """An operation that begins with ReLU and ends with batch norm, both of which a caller can do itself."""

    norm: nn.Module
    activates = True
    """Whether it does begin with ReLU."""

    def before_norm(self, activated: Tensor) -> Tensor:
        """Map an input that went through ReLU to what the last batch norm reads."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, S, S) to (N, C', S / stride, S / stride), rounded up."""
        out: Tensor = self.norm(self.before_norm(torch.relu(x) if self.activates else x))
        return out


class ReLUConvNorm(Learned):
    """Convolutions one after the other."""

    def __init__(self, convs: list[nn.Conv2d], norm: Norm) -> None:
        super().__init__()
        self.convs = nn.Sequential(*convs)
        self.norm = norm(convs[-1].out_channels)

    def before_norm(self, activated: Tensor) -> Tensor:
        out: Tensor = self.convs(activated)
        return out


class Twice(Learned):
    """Two ReLU - convolutions - batch norm: DARTS's separable convolution."""

    def __init__(self, first: ReLUConvNorm, second: ReLUConvNorm) -> None:
        super().__init__()
        self.first, self.second = first, second

    @property
    def norm(self) -> nn.Module:  # type: ignore[override]
        return self.second.norm

    def before_norm(self, activated: Tensor) -> Tensor:
        middle = self.first.norm(self.first.before_norm(activated))
        return self.second.before_norm(torch.relu(middle))


class FactorizedReduce(Learned):
    """Halve the size: two 1x1 convolutions, one on the even and one on the odd rows and columns.

    Pixels are chosen before the convolution: with a stride of 2 and few channels, oneDNN's writes beyond its memory in
    the layout with channels last.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, *, activates: bool = True) -> None:
        super().__init__()
        self.activates = activates
        half = out_channels // 2
        self.even = nn.Conv2d(in_channels, half, 1, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - half, 1, bias=False)
        self.norm = norm(out_channels)

    def before_norm(self, activated: Tensor) -> Tensor:
        height, width = activated.shape[2:]
        if height % 2 or width % 2:
            activated = F.pad(activated, (0, width % 2, 0, height % 2))
        return torch.cat([self.even(activated[:, :, ::2, ::2]), self.odd(activated[:, :, 1::2, 1::2])], 1)


def batch_norm(channels: int) -> nn.Module:
    """Return the batch norm of networks that are used."""
    return nn.BatchNorm2d(channels)


def batch_statistics(channels: int) -> nn.Module:
    """Return the batch norm of operations in a search: nothing learned, nothing remembered."""
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def own_statistics(channels: int) -> nn.Module:
    """Return a batch norm that learns and always uses the statistics of its batch."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


def pointwise(in_channels: int, out_channels: int, norm: Norm) -> ReLUConvNorm:
    """Return the 1x1 convolution that brings a cell's input to its channels."""
    return ReLUConvNorm([nn.Conv2d(in_channels, out_channels, 1, bias=False)], norm)


def make_operation(
    name: str, channels: int, stride: int, norm: Norm = batch_norm, layout: Layout = "darts"
) -> nn.Module:
    """Return an operation of `channels` in and out: Learned, a pool without batch norm, or an identity.

    `none` cannot be made: nobody computes it.
    """
    kind, _, size = name.rpartition("_")
    if name == SKIP:
        if stride == 1:
            return nn.Identity()
        return FactorizedReduce(channels, channels, norm, activates=layout == "darts")
    if name == "conv_7x1_1x7":
        across = nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False)
        down = nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False)
        return ReLUConvNorm([across, down], norm)
    if name not in OPERATIONS:
        raise UnknownNameError("operation", name, OPERATIONS)
    k = int(size[0])
    if kind == "max_pool":
        return nn.MaxPool2d(k, stride=stride, padding=k // 2)
    if kind == "avg_pool":
        return nn.AvgPool2d(k, stride=stride, padding=k // 2, count_include_pad=False)
    if kind == "dil_conv":
        return ReLUConvNorm([DilatedDepthwise(channels, k, stride), nn.Conv2d(channels, channels, 1, bias=False)], norm)
    first, second = (ReLUConvNorm(separable(channels, k, step), norm) for step in (stride, 1))
    return Twice(first, second)


def separable(channels: int, k: int, stride: int) -> list[nn.Conv2d]:
    """Return a depthwise and a pointwise convolution."""
    return [
        nn.Conv2d(channels, channels, k, stride, k // 2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
    ]
