"""Learning rates by step: linear warm-up, then cosine or linear to zero, or exponential decay to a constant ending."""

import math
from typing import Literal

CONSTANT_ENDING = 0.05
"""BigNAS (Yu et al. 2020): the rate never falls below 5 % of the initial one."""
DECAY, DECAY_EPOCHS = 0.97, 2.4


def learning_rate(
    kind: Literal["cosine", "exponential", "linear"],
    base_lr: float,
    step: int,
    *,
    steps: int,
    steps_per_epoch: int,
    warmup: int,
) -> float:
    """Return the rate of `step` (from 0) of `steps`, the first `warmup` of them rising linearly."""
    if step < warmup:
        return base_lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if kind == "cosine":
        return base_lr * 0.5 * (1 + math.cos(math.pi * done))
    if kind == "linear":
        return base_lr * (1 - done)
    decayed: float = DECAY ** ((step - warmup) / steps_per_epoch / DECAY_EPOCHS)
    return base_lr * max(CONSTANT_ENDING, decayed)
