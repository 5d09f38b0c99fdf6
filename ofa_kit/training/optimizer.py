"""What moves the weights: the optimizer of a recipe, and the warmed-up average of the weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.recipe import Recipe


def make_optimizer(supernet: Supernet, recipe: Recipe) -> torch.optim.Optimizer:
    """Return SGD (Nesterov), AdamW or RMSProp; weight decay spares biases and batch norm."""
    parameters = [p for p in supernet.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    if recipe.optimizer == "rmsprop":  # settings of MobileNetV3 and BigNAS
        return torch.optim.RMSprop(groups, lr=recipe.lr, alpha=0.9, eps=1e-3, momentum=recipe.momentum)
    sgd = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    if recipe.momentum:  # the fused kernel wants buffers of all or none, and most steps leave some weights out
        for parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def warmed_up_average(decay: float) -> Callable[..., None]:
    """Average that follows the weights closely at first: decay min(decay, (1 + n) / (10 + n)) after n updates."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(averaged, current)

    return update
