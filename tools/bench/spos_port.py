"""A plain port of SPOS's supernet (Guo et al. 2020) as its authors build it: one module a choice, NCHW, by index."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ofa_kit.arch.spos_format import to_spos_text
from ofa_kit.supernet.elastic_units import ElasticChoiceBlock
from ofa_kit.supernet.supernet import Supernet

STAGES = ((64, 4), (160, 4), (320, 8), (640, 4))
"""Output channels and blocks."""
KERNELS = (3, 5, 7, 3)
XCEPTION = 3
OUR_UNITS = ("shuffle3", "shuffle5", "shuffle7", "xception3")


class Port(nn.Module):
    """Images (N, 3, H, W) and 20 choices 0..3 to logits (N, 1000); batch norm without affine."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, 16, 3, stride=2, relu=True))
        self.blocks = nn.ModuleList()
        inside = 16
        for outside, depth in STAGES:
            for block in range(depth):
                stride, source = (2, inside) if block == 0 else (1, outside // 2)
                self.blocks.append(nn.ModuleList(Unit(source, outside, choice, stride) for choice in range(4)))
            inside = outside
        self.last = nn.Sequential(*convolution(inside, 1024, 1, relu=True))
        self.classifier = nn.Linear(1024, 1000, bias=False)

    def forward(self, images: Tensor, choices: Sequence[int]) -> Tensor:
        x = self.stem(images)
        for block, choice in zip(self.blocks, choices, strict=True):
            x = block[choice](x)
        return self.classifier(self.last(x).mean((2, 3)))


class Unit(nn.Module):
    """One choice of a block: a ShuffleNetV2 unit, or the one with three depthwise convolutions."""

    def __init__(self, source: int, outside: int, choice: int, stride: int) -> None:
        super().__init__()
        kernel, hidden, added = KERNELS[choice], outside // 2, outside - source
        if choice == XCEPTION:
            main = convolution(source, source, kernel, stride=stride, groups=source)
            main += convolution(source, hidden, 1, relu=True)
            main += convolution(hidden, hidden, kernel, groups=hidden) + convolution(hidden, hidden, 1, relu=True)
            main += convolution(hidden, hidden, kernel, groups=hidden) + convolution(hidden, added, 1, relu=True)
        else:
            main = convolution(source, hidden, 1, relu=True)
            main += convolution(hidden, hidden, kernel, stride=stride, groups=hidden)
            main += convolution(hidden, added, 1, relu=True)
        self.main = nn.Sequential(*main)
        self.short = None
        if stride == 2:
            short = convolution(source, source, kernel, stride=2, groups=source)
            self.short = nn.Sequential(*short, *convolution(source, source, 1, relu=True))

    def forward(self, x: Tensor) -> Tensor:
        if self.short is not None:
            return torch.cat((self.short(x), self.main(x)), 1)
        kept, convolved = shuffled(x)
        return torch.cat((kept, self.main(convolved)), 1)


def shuffled(x: Tensor) -> Tensor:
    """Return even and odd channels, shape (2, N, C / 2, H, W), in the steps of the original."""
    n, c, h, w = x.shape
    return x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)


def convolution(
    inside: int, outside: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = False
) -> list[nn.Module]:
    """Return a convolution, its batch norm, and ReLU."""
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outside, affine=False), *([nn.ReLU(inplace=True)] if relu else [])]


@torch.no_grad()
def port_of(supernet: Supernet) -> Port:
    """Return the port with the weights of our supernet."""
    port = Port()
    blocks = [layer for layer in supernet.layers.values() if isinstance(layer, ElasticChoiceBlock)]
    for theirs, own in zip(port.blocks, blocks, strict=True):
        for choice, name in zip(theirs, OUR_UNITS, strict=True):
            mains = [part for part in own.units[name] if not part.startswith("short")]
            shorts = [part for part in own.units[name] if part.startswith("short")]
            for branch, parts in ((choice.main, mains), (choice.short, shorts)):
                weights = [own.units[name][part].weight for part in parts if not part.endswith("_bn")]
                convs = [module for module in branch or () if isinstance(module, nn.Conv2d)]
                for conv, weight in zip(convs, weights, strict=True):
                    conv.weight.copy_(weight)
    ends = [tensor for name, tensor in supernet.named_parameters() if ".units." not in name and tensor.ndim > 1]
    for module, weight in zip((port.stem[0], port.last[0], port.classifier), ends, strict=True):
        module.weight.copy_(weight.reshape(module.weight.shape))
    return port


def choices_of(arch: object) -> list[int]:
    """Return the numbers of the choices of one architecture."""
    return [int(word) for word in to_spos_text(arch).split()]
