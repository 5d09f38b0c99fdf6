"""Variational dropout: masks drawn once for a segment, from a generator, and handed to the model with its input."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DropoutRates:
    """Shares that are dropped in training; in brackets the names in the code of AWD-LSTM and DARTS."""

    words: float = 0.0
    """Whole words of the embedding (dropoute)."""
    embedded: float = 0.0
    """Features of embedded words (dropouti)."""
    cell_input: float = 0.0
    """Features that the cell reads as its input (dropoutx)."""
    cell_state: float = 0.0
    """Features that the cell reads of its state and its nodes (dropouth)."""
    output: float = 0.0
    """Features that the classifier reads (dropout)."""
    weights: float = 0.0
    """Elements of the matrices between states (wdrop), AWD-LSTM's DropConnect."""


@dataclass(frozen=True)
class Masks:
    """What is kept of a segment, scaled by 1 / share kept: the same mask for every token of it; None = all."""

    words: Tensor | None = None
    """(words, 1)"""
    embedded: Tensor | None = None
    """(batch, hidden), as all that follow."""
    cell_input: Tensor | None = None
    cell_state: Tensor | None = None
    output: Tensor | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """By parameter of the cell."""


NO_MASKS = Masks()


@dataclass(frozen=True)
class MaskDrawer:
    """Draws masks for one model and batch."""

    rates: DropoutRates
    words: int
    hidden: int
    batch: int
    weights: Mapping[str, Tensor]
    """The cell's matrices between states, by name: their shapes count."""
    device: torch.device

    def draw(self, generator: torch.Generator) -> Masks:
        """Return fresh masks; a generator on the CPU gives the same ones for every device."""
        rates, features = self.rates, (self.batch, self.hidden)

        def mask(shape: tuple[int, ...], rate: float) -> Tensor | None:
            if not rate:
                return None
            kept = torch.rand(shape, generator=generator) >= rate
            return (kept / (1 - rate)).to(self.device)

        drawn = {name: mask(tuple(weight.shape), rates.weights) for name, weight in self.weights.items()}
        return Masks(
            words=mask((self.words, 1), rates.words),
            embedded=mask(features, rates.embedded),
            cell_input=mask(features, rates.cell_input),
            cell_state=mask(features, rates.cell_state),
            output=mask(features, rates.output),
            weights={name: found for name, found in drawn.items() if found is not None},
        )


def dropped(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x times the mask."""
    return x if mask is None else x * mask
