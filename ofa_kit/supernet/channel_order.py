"""Channel order before elastic width: the most important hidden channels come first (Cai et al. 2020, sec. 3.3).

Importance is the L1 norm of the projection weight per hidden channel. Channels are sorted only inside the segments
between widths that are already trained, so every subnet trained so far keeps computing exactly what it did.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from ofa_kit.arch.config import ArchConfig, StageConfig
from ofa_kit.arch.layers import layers
from ofa_kit.arch.space import SearchSpace
from ofa_kit.supernet.elastic import ElasticInvertedResidual
from ofa_kit.supernet.supernet import Supernet


@torch.no_grad()
def sort_channels(supernet: Supernet, trained: SearchSpace) -> None:
    """Sort hidden and squeeze channels of every block, keeping every subnet of the sub-space `trained` intact."""
    hidden: dict[str, set[int]] = {}
    squeezed: dict[str, set[int]] = {}
    for arch in _each_width(trained):
        for layer in layers(supernet.space, arch):
            if layer.name.startswith("stage"):
                hidden.setdefault(layer.name, set()).add(layer.hidden_channels)
                squeezed.setdefault(layer.name, set()).add(layer.squeeze_channels)
    for name in hidden:
        block = supernet.layers[name]
        assert isinstance(block, ElasticInvertedResidual)
        _sort_hidden(block, sorted(hidden[name]))
        if hasattr(block, "se_reduce"):
            _sort_squeezed(block, sorted(squeezed[name]))


def _each_width(space: SearchSpace) -> Iterator[ArchConfig]:
    """Yield deepest architectures that together use every expand_ratio of every block."""
    for index in range(max(len(s.expand_ratios) for s in space.stages)):
        yield ArchConfig(
            max(space.resolutions),
            tuple(
                StageConfig(
                    s.width,
                    (max(s.kernel_sizes),) * s.max_depth,
                    (s.expand_ratios[min(index, len(s.expand_ratios) - 1)],) * s.max_depth,
                )
                for s in space.stages
            ),
        )


def _sort_hidden(block: ElasticInvertedResidual, widths: list[int]) -> None:
    order = _order(block.project.weight.abs().sum((0, 2, 3)), widths)
    _permute(block.project, 1, order)
    _permute(block.depthwise, 0, order)
    _permute_norm(block.depthwise_bn, order)
    if hasattr(block, "expand"):
        _permute(block.expand, 0, order)
        _permute_norm(block.expand_bn, order)
    if hasattr(block, "se_reduce"):
        _permute(block.se_reduce, 1, order)
        _permute(block.se_expand, 0, order)


def _sort_squeezed(block: ElasticInvertedResidual, widths: list[int]) -> None:
    order = _order(block.se_expand.weight.abs().sum((0, 2, 3)), widths)
    _permute(block.se_expand, 1, order)
    _permute(block.se_reduce, 0, order)


def _order(importance: Tensor, widths: list[int]) -> Tensor:
    """Return a permutation that sorts descending inside each segment between `widths`."""
    edges = [0, *widths, len(importance)]
    parts = [
        start + torch.argsort(importance[start:end], descending=True, stable=True) for start, end in pairwise(edges)
    ]
    return torch.cat(parts)


def _permute(conv: nn.Conv2d, dim: int, order: Tensor) -> None:
    conv.weight.copy_(conv.weight.index_select(dim, order))
    if dim == 0 and conv.bias is not None:
        conv.bias.copy_(conv.bias[order])


def _permute_norm(norm: nn.BatchNorm2d, order: Tensor) -> None:
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.copy_(tensor[order])
