"""Learning rates: linear warm-up, then cosine, linear or exponential decay; and cosines with restarts."""

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


def restarted_cosine(highest: float, lowest: float, epochs: float, *, first: int, factor: int) -> float:
    """Return the rate after so many epochs of cosines from `highest` to `lowest` (SGDR, Loshchilov & Hutter 2017).

    The first lasts `first` epochs, each further one `factor` times as long as the one before.
    """
    length = float(first)
    while epochs >= length:
        epochs -= length
        length *= factor
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(math.pi * epochs / length))
