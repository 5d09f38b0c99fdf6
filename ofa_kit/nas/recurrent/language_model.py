"""A language model around a recurrent cell: embedding and classifier share their weights (Inan et al. 2017)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.data.text_batches import IGNORED, Columns, fixed_segments
from ofa_kit.nas.recurrent.cell import LstmCell, RecurrentCell, State, uniform
from ofa_kit.nas.recurrent.dropout import NO_MASKS, DropoutRates, MaskDrawer, Masks, dropped

EVALUATION_ROWS = 100
"""Rows that are evaluated at once; the state goes on, so the result does not depend on it."""
INIT_RANGE = 0.04


@dataclass(frozen=True)
class Passed:
    """What a pass over a segment gives."""

    logits: Tensor
    """(rows, batch, words)"""
    outputs: Tensor
    """Outputs of the cell before dropout (rows, batch, hidden)."""
    kept: Tensor
    """Outputs after dropout."""
    state: State


class LanguageModel(nn.Module):
    """Says for each token of (rows, batch) how likely each word of the vocabulary follows."""

    def __init__(
        self, cell: RecurrentCell, words: int, generator: torch.Generator, *, init_range: float = INIT_RANGE
    ) -> None:
        super().__init__()
        self.embedding = uniform((words, cell.hidden), init_range, generator)
        self.bias = nn.Parameter(torch.zeros(words))
        self.cell = cell

    @property
    def words(self) -> int:
        """Return the size of the vocabulary."""
        return len(self.bias)

    @property
    def params(self) -> int:
        """Return the number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, tokens: Tensor, state: State, masks: Masks = NO_MASKS, choice: Any = None) -> Passed:
        """Map tokens (rows, batch) and the state before them to logits and the state after them."""
        embedded = dropped(F.embedding(tokens, dropped(self.embedding, masks.words)), masks.embedded)
        outputs, state = self.cell(embedded, state, masks, choice)
        kept = dropped(outputs, masks.output)
        return Passed(F.linear(kept, self.embedding, self.bias), outputs, kept, state)

    def mask_drawer(self, rates: DropoutRates, batch: int) -> MaskDrawer:
        """Return what draws masks for this model."""
        between = {name: getattr(self.cell, name) for name in self.cell.between_states}
        return MaskDrawer(rates, self.words, self.cell.hidden, batch, between, self.bias.device)


def genotype_params(nodes: int, hidden: int, words: int) -> int:
    """Return the number of weights of a language model with a cell of so many nodes."""
    return words * (hidden + 1) + hidden * 2 * hidden * (2 + nodes)


def tree_params(base: int, hidden: int, words: int) -> int:
    """Return the number of weights of a language model with a tree of so many leaves."""
    return words * (hidden + 1) + 2 * hidden * base * hidden


def lstm_hidden(params: int, words: int) -> int:
    """Return the hidden size at which the LSTM's language model comes closest to `params` weights."""

    def size(hidden: int) -> int:
        return words * (hidden + 1) + 8 * hidden**2 + 4 * hidden

    hidden = max(1, int((math.sqrt((words + 4) ** 2 + 32 * max(0, params - words)) - words - 4) / 16))
    return min((hidden, hidden + 1), key=lambda each: abs(size(each) - params))


def make_lstm(params: int, words: int, generator: torch.Generator) -> LanguageModel:
    """Return the LSTM's language model whose size is closest to `params` weights."""
    return LanguageModel(LstmCell(lstm_hidden(params, words), generator), words, generator)


def cross_entropy(passed: Passed, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats over the targets (rows, batch) that count."""
    return F.cross_entropy(passed.logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def activation_penalty(passed: Passed, *, size: float, change: float) -> Tensor:
    """Return AWD-LSTM's penalties on outputs: `size` times their squares, `change` times those of their steps."""
    found = passed.logits.new_zeros(())
    if size:
        found = found + size * passed.kept.square().mean()
    if change and len(passed.outputs) > 1:
        found = found + change * passed.outputs.diff(dim=0).square().mean()
    return found


@torch.no_grad()
def perplexity(model: LanguageModel, columns: Columns, choice: Any = None) -> float:
    """Return exp of the mean cross-entropy over every prediction of the columns, each after all above it.

    It is infinite where a model has no finite logits.
    """
    state = model.cell.start(columns.inputs.shape[1])
    total = 0.0
    for segment in fixed_segments(columns.rows, EVALUATION_ROWS):
        tokens, targets = segment.of(columns)
        passed = model(tokens, state, NO_MASKS, choice)
        state = passed.state
        count = int((targets != IGNORED).sum())
        total += float(cross_entropy(passed, targets)) * count if count else 0.0
    return math.exp(min(total / columns.predictions, 700.0)) if math.isfinite(total) else math.inf
