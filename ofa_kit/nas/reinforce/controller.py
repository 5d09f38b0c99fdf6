"""Controllers: recurrent networks that decide an architecture token by token."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ofa_kit.nas.reinforce.decisions import Decisions

State = list[tuple[Tensor, Tensor]]
"""Hidden and memory, (N, H) each, of each layer of an LSTM."""


class Controller(nn.Module, ABC):
    """A policy over architectures."""

    @abstractmethod
    def walk(self, decisions: Decisions) -> None:
        """Make all decisions of an architecture in their order."""

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Decisions:
        """Return the decisions of so many architectures, drawn by the policy, without gradients."""
        decisions = Decisions.drawn(count, generator)
        self.walk(decisions)
        return decisions

    def score(self, tokens: Tensor) -> Decisions:
        """Return the same decisions, (N, T) tokens, with gradients of their log-probabilities."""
        decisions = Decisions.replayed(tokens)
        self.walk(decisions)
        return decisions


def draw_uniform(module: nn.Module, bound: float, generator: torch.Generator) -> None:
    """Draw all parameters from U(-bound, bound)."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound, generator=generator)


class StackedLstm(nn.Module):
    """LSTM layers that take one step at a time."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.cells = nn.ModuleList(nn.LSTMCell(hidden, hidden, bias=False) for _ in range(layers))

    def start(self, count: int) -> State:
        """Return the state before the first token."""
        zeros = torch.zeros(count, self.hidden)
        return [(zeros, zeros) for _ in self.cells]

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Map inputs (N, H) and a state to the last layer's output (N, H) and the next state."""
        after: State = []
        for cell, before in zip(self.cells, state, strict=True):
            after.append(cell(inputs, before))
            inputs = after[-1][0]
        return inputs, after


class TokenController(Controller):
    """Decides tokens one after the other, `sizes[t]` choices each, every one by all before it (Zoph & Le 2017)."""

    def __init__(
        self,
        sizes: Sequence[int],
        generator: torch.Generator,
        *,
        hidden: int = 35,
        layers: int = 2,
        bound: float = 0.08,
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.lstm = StackedLstm(hidden, layers)
        self.first = nn.Parameter(torch.empty(hidden))
        self.embeddings = nn.ModuleList(nn.Embedding(size, hidden) for size in self.sizes[:-1])
        self.heads = nn.ModuleList(nn.Linear(hidden, size, bias=False) for size in self.sizes)
        draw_uniform(self, bound, generator)

    def walk(self, decisions: Decisions) -> None:
        state = self.lstm.start(decisions.count)
        inputs = self.first.expand(decisions.count, -1)
        for place, head in enumerate(self.heads):
            output, state = self.lstm(inputs, state)
            chosen = decisions.choose(head(output))
            if place < len(self.embeddings):
                inputs = self.embeddings[place](chosen)


def squashed(logits: Tensor, *, temperature: float, tanh_constant: float) -> Tensor:
    """Return logits kept within +- tanh_constant, so that no choice dies out early (Pham et al. 2018)."""
    return tanh_constant * torch.tanh(logits / temperature)
