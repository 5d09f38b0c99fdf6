"""One training step: the gradients of several subnets added up."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.rules import Pass

Teacher = Callable[[Tensor, int], Tensor]
"""Logits (N, classes) of a fixed network for images at a resolution."""


def add_gradients(
    supernet: Supernet,
    images: Tensor,
    labels: Tensor,
    passes: Sequence[Pass],
    *,
    label_smoothing: float,
    teacher: Teacher,
) -> float:
    """Run the passes forward and backward; return the loss of the first."""
    losses: list[float] = []
    largest_output: Tensor | None = None
    for item in passes:
        logits = supernet(images, item.arch)
        if item.target == "largest":
            assert largest_output is not None, "the first pass of a step learns from labels"
            loss = soft_cross_entropy(logits, largest_output)
        else:
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        if item.target == "teacher":
            loss = loss + soft_cross_entropy(logits, teacher(images, item.arch.resolution))
        loss.backward()
        losses.append(float(loss.detach()))
        if largest_output is None:
            largest_output = logits.detach()
    return losses[0]


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the cross-entropy to the softmax of `target_logits`, both (N, classes)."""
    return F.cross_entropy(logits, target_logits.softmax(1))
