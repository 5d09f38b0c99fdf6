"""Batches of text: equal columns side by side, read from top to bottom in segments (Zaremba et al. 2014).

The state after one segment is where the next one starts, and gradients go back to the start of a segment only.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ofa_kit.errors import DataError

IGNORED = -100
"""Target where a column is longer than its part of the text; cross-entropy leaves it out."""
SHORT_SHARE = 0.05
LEAST_LENGTH, MOST_LONGER = 5, 20


@dataclass(frozen=True)
class Columns:
    """Tokens and the tokens after them, both (rows, batch): each but the text's first is predicted exactly once."""

    inputs: Tensor
    targets: Tensor

    @property
    def rows(self) -> int:
        return len(self.inputs)

    @property
    def predictions(self) -> int:
        """Return how many tokens are predicted."""
        return int((self.targets != IGNORED).sum())

    def to(self, device: torch.device) -> "Columns":
        return Columns(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Segment:
    """Some rows in a row."""

    number: int
    """Position in the epoch, from 0."""
    start: int
    length: int

    def of(self, columns: Columns) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (length, batch)."""
        rows = slice(self.start, self.start + self.length)
        return columns.inputs[rows], columns.targets[rows]


def columns(tokens: Tensor, batch: int) -> Columns:
    """Cut tokens (N,) into `batch` columns; a DataError where a column would be empty."""
    predictions = len(tokens) - 1
    rows = -(-predictions // batch)
    if predictions < batch or rows * (batch - 1) >= predictions:
        raise DataError(
            f"{len(tokens)} tokens are too few for a batch of {batch} columns; give a longer text or a smaller batch"
        )
    missing = rows * batch - predictions
    inputs = torch.cat([tokens[:-1], tokens[-1:].expand(missing)])
    targets = torch.cat([tokens[1:], tokens.new_full((missing,), IGNORED)])
    return Columns(inputs.view(batch, rows).t().contiguous(), targets.view(batch, rows).t().contiguous())


def segments(rows: int, bptt: int, rng: np.random.Generator, *, deviation: float = 0.0) -> list[Segment]:
    """Cut rows into segments of about `bptt`, of half as many now and then, so that epochs cut in other places.

    With a `deviation` lengths are drawn from a normal distribution too (Merity et al. 2018, sec. 5).
    """
    found: list[Segment] = []
    start = 0
    while start < rows:
        mean = bptt if rng.random() >= SHORT_SHARE else max(1, bptt // 2)
        length = mean
        if deviation:
            length = int(np.clip(int(rng.normal(mean, deviation)), min(LEAST_LENGTH, bptt), bptt + MOST_LONGER))
        length = min(length, rows - start)
        found.append(Segment(len(found), start, length))
        start += length
    return found


def fixed_segments(rows: int, length: int) -> list[Segment]:
    """Cut rows into segments of one length, the last one shorter: for evaluation."""
    starts = range(0, rows, length)
    return [Segment(number, start, min(length, rows - start)) for number, start in enumerate(starts)]
