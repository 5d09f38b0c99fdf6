"""Where the training of a supernet stands: what a checkpoint holds of it, and what a watcher sees."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Position:
    """Where training stands: finished epochs of a phase and steps of the one under way."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    elapsed_s: float = 0.0
    scaler: dict[str, Any] | None = None
    """State of the fp16 loss scaler."""


@dataclass(frozen=True)
class Progress:
    """What a watcher sees after each step."""

    phase: str
    done_steps: int
    total_steps: int
    loss: float
    row: dict[str, Any] | None = None
    """The metrics row, at the end of an epoch."""
