"""What a subnet loses against the soft labels of a larger network."""

import torch
from torch import Tensor
from torch.nn import functional as F

IMPORTANCE_CLIP = 5.0


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the cross-entropy to the softmax of `target_logits`, both (N, classes)."""
    return F.cross_entropy(wide(logits), wide(target_logits).softmax(1))


def alpha_divergence(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return a loss with the gradient of AlphaNet's adaptive divergence (Wang et al. 2021, eq. 8).

    For each image the larger of the divergences with alpha = -1 (punishes what the subnet overestimates) and
    alpha = 1 (KL: what it underestimates); importance weights of the first are clipped. The gradient is estimated
    from the subnet's own probabilities and flows through its log-probabilities alone. Both (N, classes).
    """
    student_log = F.log_softmax(wide(logits), 1)
    with torch.no_grad():
        target_log = F.log_softmax(wide(target_logits), 1)
        log_ratio = target_log - student_log
        student, target = student_log.exp(), target_log.exp()
        inverse = (-log_ratio).exp().clamp(max=IMPORTANCE_CLIP)
        negative = (student * (inverse - 1)).sum(1) / 2
        positive = (target * log_ratio).sum(1)
        weights = torch.where((negative > positive)[:, None], student * (0.5 - inverse), target)
    return -(weights * student_log).sum(1).mean()


def wide(logits: Tensor) -> Tensor:
    """Return logits in a precision fit for exponentials: fp32, or fp64 where they are that."""
    return logits if logits.dtype == torch.float64 else logits.float()


DISTILLATION = {"soft-cross-entropy": soft_cross_entropy, "alpha-divergence": alpha_divergence}
