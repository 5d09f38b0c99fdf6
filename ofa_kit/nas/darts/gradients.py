"""Gradients of the alphas: first order, and through one unrolled step of the weights (Liu et al. 2019, sec. 2.3).

The unrolled weights are w' = w - xi * (momentum * buffer + dL_train/dw + weight_decay * w). Then

    dL_val(w', alphas)/dalphas = [partial] - xi * d/dalphas (dL_train(w, alphas)/dw . v),    v = dL_val(w')/dw'

and the second term comes from a finite difference along v (the paper's) or from a second backward pass (exact). The
finite difference can be far off on networks with kinks, such as ReLU and max pooling: some lie inside its interval.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ofa_kit.nas.darts.alphas import Alphas

Order = Literal["first", "second", "exact"]
Weights = Mapping[str, Tensor]
Loss = Callable[[Weights, Alphas], Tensor]
"""A scalar loss of weights, by name, and alphas on one batch."""


@dataclass(frozen=True)
class Unrolled:
    """The step of the weights that is looked through."""

    xi: float
    """Learning rate of the weights."""
    momentum: float
    weight_decay: float
    epsilon: float = 0.01
    """The finite difference moves the weights by this length, both ways."""


@dataclass(frozen=True)
class AlphaGradient:
    """What one batch of validation images says about the alphas."""

    gradients: tuple[Tensor, ...]
    """In the order of `Alphas.tensors`."""
    validation_loss: float


def alpha_gradient(
    order: Order,
    train_loss: Loss,
    validation_loss: Loss,
    weights: Weights,
    alphas: Alphas,
    *,
    buffers: Weights,
    unrolled: Unrolled,
) -> AlphaGradient:
    """Return the gradient of the validation loss; `buffers` are the momentum buffers, by the weights' names."""
    if order == "first":
        return first_order(validation_loss, weights, alphas)
    step = second_order if order == "second" else exact_second_order
    return step(train_loss, validation_loss, weights, alphas, buffers=buffers, unrolled=unrolled)


def first_order(validation_loss: Loss, weights: Weights, alphas: Alphas) -> AlphaGradient:
    """Return the gradient with the weights held fixed; that of the weights is not computed."""
    loss = validation_loss(detached(weights), alphas)
    return AlphaGradient(_gradients(loss, alphas.tensors), loss.item())


def second_order(
    train_loss: Loss, validation_loss: Loss, weights: Weights, alphas: Alphas, *, buffers: Weights, unrolled: Unrolled
) -> AlphaGradient:
    """Return the gradient through the unrolled step, by finite difference: four passes, two without weights."""
    leaves = _leaves(weights)
    gradients = torch.autograd.grad(train_loss(leaves, detached_alphas(alphas)), list(leaves.values()))
    partial, direction, loss = _after_the_step(validation_loss, weights, gradients, alphas, buffers, unrolled)
    norm = torch.sqrt(sum((d.square().sum() for d in direction), torch.zeros((), device=direction[0].device)))
    if not float(norm):
        return AlphaGradient(partial, loss)
    radius = unrolled.epsilon / norm

    def alphas_gradient(sign: int) -> tuple[Tensor, ...]:
        moved = {
            name: (weight + sign * radius * d).detach()
            for (name, weight), d in zip(weights.items(), direction, strict=True)
        }
        return _gradients(train_loss(moved, alphas), alphas.tensors)

    difference = zip(alphas_gradient(1), alphas_gradient(-1), strict=True)
    implicit = [(plus - minus) / (2 * radius) for plus, minus in difference]
    return AlphaGradient(_corrected(partial, implicit, unrolled.xi), loss)


def exact_second_order(
    train_loss: Loss, validation_loss: Loss, weights: Weights, alphas: Alphas, *, buffers: Weights, unrolled: Unrolled
) -> AlphaGradient:
    """Return the gradient through the unrolled step by a second backward pass through one shared forward pass."""
    leaves = _leaves(weights)
    gradients = torch.autograd.grad(train_loss(leaves, alphas), list(leaves.values()), create_graph=True)
    plain = [gradient.detach() for gradient in gradients]
    partial, direction, loss = _after_the_step(validation_loss, weights, plain, alphas, buffers, unrolled)
    implicit = torch.autograd.grad(gradients, alphas.tensors, grad_outputs=direction, materialize_grads=True)
    return AlphaGradient(_corrected(partial, implicit, unrolled.xi), loss)


def detached(weights: Weights) -> dict[str, Tensor]:
    """Return the same values, of which no gradient is asked."""
    return {name: weight.detach() for name, weight in weights.items()}


def detached_alphas(alphas: Alphas) -> Alphas:
    """Return the same alphas, of which no gradient is asked."""
    return alphas.with_tensors([tensor.detach() for tensor in alphas.tensors])


def _leaves(weights: Weights) -> dict[str, Tensor]:
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def _after_the_step(
    validation_loss: Loss,
    weights: Weights,
    gradients: "tuple[Tensor, ...] | list[Tensor]",
    alphas: Alphas,
    buffers: Weights,
    unrolled: Unrolled,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], float]:
    """Return the validation loss's gradients by alphas and by weights after the step, and the loss."""
    moved = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        step = gradient + unrolled.weight_decay * weight.detach()
        if name in buffers:
            step = step + unrolled.momentum * buffers[name]
        moved[name] = (weight.detach() - unrolled.xi * step).requires_grad_()
    loss = validation_loss(moved, alphas)
    found = _gradients(loss, [*alphas.tensors, *moved.values()])
    count = len(alphas.tensors)
    return found[:count], found[count:], loss.item()


def _corrected(
    partial: tuple[Tensor, ...], implicit: "tuple[Tensor, ...] | list[Tensor]", xi: float
) -> tuple[Tensor, ...]:
    return tuple(p - xi * i for p, i in zip(partial, implicit, strict=True))


def _gradients(loss: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Return gradients, 0 where the loss does not depend on a tensor: a network may have cells of one kind only."""
    return torch.autograd.grad(loss, tensors, materialize_grads=True)
