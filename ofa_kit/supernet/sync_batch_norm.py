"""Batch norm over the joined batch of several processes: what one process with all images would compute.

Unlike torch's SyncBatchNorm it works on CPU (gloo) and on slices of the parameters.
"""

from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from ofa_kit.supernet.elastic import Elastic
from ofa_kit.supernet.supernet import Supernet


def synchronize_batch_norm(supernet: Supernet) -> None:
    """Make every batch norm of the supernet use statistics of all processes while it trains."""
    for layer in supernet.layers.values():
        assert isinstance(layer, Elastic)
        layer.batch_norm = synced_batch_norm


def synced_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise (N, C, H, W) as `F.batch_norm` does on the batches of all processes, which are equally large."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    assert running_mean is not None
    assert running_var is not None
    assert weight is not None
    assert bias is not None
    # One exchange: means and second moments about a point that all processes know and that lies near the mean.
    near, size = running_mean.clone(), distributed.get_world_size()
    shifted = x.to(weight.dtype) - near[:, None, None]
    local_variance, local_mean = torch.var_mean(shifted, (0, 2, 3), correction=0)
    mean, second = _sum(torch.stack([local_mean, local_variance + local_mean.square()])) / size
    variance = second - mean.square()
    count = x.numel() // x.shape[1] * size
    with torch.no_grad():
        running_mean.lerp_(mean + near, momentum)
        running_var.lerp_(variance * (count / max(1, count - 1)), momentum)
    scale = weight * torch.rsqrt(variance + eps)
    normalised: Tensor = (shifted - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]
    return normalised.to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def _sum(local: Tensor) -> Tensor:
    return cast(Tensor, _SumOverProcesses.apply(local))
