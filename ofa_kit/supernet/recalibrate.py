"""Batch norm recalibration: statistics of a subnet's own activations (Yu & Huang 2019; Cai et al. 2020)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import resize


@torch.no_grad()
def recalibrate(subnet: Subnet, batches: Iterable[Tensor]) -> Subnet:
    """Set the BN statistics of `subnet` from batches of training images (N, C, H, W), resized to its resolution.

    Each batch is normalised with its own statistics; means and biased variances are averaged by batch size.
    """
    norms = [module for module in subnet.modules() if isinstance(module, nn.BatchNorm2d)]
    sums: list[list[Tensor]] = [[torch.zeros_like(n.weight), torch.zeros_like(n.weight)] for n in norms]
    weights = [0]

    def observe(index: int, x: Tensor) -> None:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        sums[index][0] += mean * len(x)
        sums[index][1] += variance * len(x)

    hooks = [
        norm.register_forward_pre_hook(lambda _module, inputs, i=index: observe(i, inputs[0]))
        for index, norm in enumerate(norms)
    ]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        subnet.train()
        for images in batches:
            subnet(resize(images, subnet.arch.resolution))
            weights[0] += len(images)
    finally:
        for norm, hook, momentum in zip(norms, hooks, momenta, strict=True):
            hook.remove()
            norm.momentum = momentum
        subnet.eval()
    for norm, (mean, variance) in zip(norms, sums, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean / weights[0])
        norm.running_var.copy_(variance / weights[0])
    return subnet


@torch.no_grad()
def top1(subnet: Subnet, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of correctly classified images in percent."""
    subnet.eval()
    correct = total = 0
    for images, labels in batches:
        logits = subnet(resize(images, subnet.arch.resolution))
        correct += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    return 100.0 * correct / total
