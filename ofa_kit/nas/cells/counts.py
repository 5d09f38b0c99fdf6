"""Parameters and multiply-adds of any network."""

from typing import Any

import torch
from torch import Tensor, nn


def params_of(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def macs_of(network: nn.Module, shape: tuple[int, int, int], *others: Any) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image (C, H, W); `others` follow the image."""
    found: list[int] = []

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        found.append(output.numel() * module.weight[0].numel())  # each output is a sum over one filter

    counted = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(count) for module in counted]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.empty((1, *shape), device=next(network.parameters()).device), *others)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return sum(found)
