"""Channel order before elastic width: the most important hidden channels come first (Cai et al. 2020, sec. 3.3).

Importance is the L1 norm of the projection weight per hidden channel. Channels are sorted only inside the segments
between widths that are already trained, so every subnet trained so far keeps computing exactly what it did.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ofa_kit.arch.layers import slots
from ofa_kit.arch.space import SearchSpace
from ofa_kit.supernet.elastic_blocks import ElasticBottleneck, ElasticInvertedResidual
from ofa_kit.supernet.supernet import Supernet, choices_of


@torch.no_grad()
def sort_channels(supernet: Supernet, trained: SearchSpace) -> None:
    """Sort hidden and squeeze channels of every block, keeping every subnet of the sub-space `trained` intact."""
    for slot in slots(trained):
        block = supernet.layers[slot.name]
        choices = choices_of(slot, trained)
        hidden = sorted({layer.hidden_channels for layer in choices})
        if isinstance(block, ElasticBottleneck):
            _sort_between(block.reduce, block.reduce_bn, block.middle, hidden)
            _sort_between(block.middle, block.middle_bn, block.project, hidden)
        elif isinstance(block, ElasticInvertedResidual):
            _sort_hidden(block, hidden)
            if hasattr(block, "se_reduce"):
                _sort_squeezed(block, sorted({layer.squeeze_channels for layer in choices}))


def _sort_between(before: nn.Conv2d, norm: nn.BatchNorm2d, after: nn.Conv2d, widths: list[int]) -> None:
    """Sort the channels that `before` gives and `after` takes by the weight that `after` gives them."""
    order = _order(after.weight.abs().sum((0, 2, 3)), widths)
    _permute(after, 1, order)
    _permute(before, 0, order)
    _permute_norm(norm, order)


def _sort_hidden(block: ElasticInvertedResidual, widths: list[int]) -> None:
    if not hasattr(block, "expand"):
        return  # its hidden channels are the block's input channels, in the order in which that comes
    order = _order(block.project.weight.abs().sum((0, 2, 3)), widths)
    _permute(block.project, 1, order)
    _permute(block.depthwise, 0, order)
    _permute_norm(block.depthwise_bn, order)
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
