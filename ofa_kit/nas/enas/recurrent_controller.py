"""The controller of ENAS's recurrent cells: for each node an earlier one, by attention, and a function."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ofa_kit.nas.recurrent.genotype import FUNCTIONS, RecurrentGenotype
from ofa_kit.nas.reinforce.controller import Controller, StackedLstm, draw_uniform, squashed
from ofa_kit.nas.reinforce.decisions import Decisions


class CellController(Controller):
    """Tokens: the function of node 0, then of each of `nodes` later ones the node that it reads and its function."""

    def __init__(
        self,
        nodes: int,
        generator: torch.Generator,
        *,
        hidden: int = 100,
        temperature: float = 5.0,
        tanh_constant: float = 2.5,
        init_range: float = 0.1,
    ) -> None:
        super().__init__()
        self.nodes, self.temperature, self.tanh_constant = nodes, temperature, tanh_constant
        self.lstm = StackedLstm(hidden, 1)
        self.first = nn.Parameter(torch.empty(hidden))
        self.functions = nn.Embedding(len(FUNCTIONS), hidden)
        self.function_head = nn.Linear(hidden, len(FUNCTIONS), bias=False)
        self.anchor = nn.Linear(hidden, hidden, bias=False)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.attention = nn.Linear(hidden, 1, bias=False)
        draw_uniform(self, init_range, generator)

    def walk(self, decisions: Decisions) -> None:
        everyone = torch.arange(decisions.count)
        inputs, state = self.first.expand(decisions.count, -1), self.lstm.start(decisions.count)
        read: list[Tensor] = []
        """Of each node the output (N, H) that chose what it reads."""
        for node in range(self.nodes + 1):
            output, state = self.lstm(inputs, state)
            inputs = self.first.expand(decisions.count, -1)
            if node:
                anchors = torch.stack(read, 1)
                scores = self.attention(torch.tanh(self.anchor(anchors) + self.query(output)[:, None]))[..., 0]
                inputs = anchors[everyone, decisions.choose(self._squashed(scores))]
            read.append(output)
            output, state = self.lstm(inputs, state)
            inputs = self.functions(decisions.choose(self._squashed(self.function_head(output))))

    def _squashed(self, logits: Tensor) -> Tensor:
        return squashed(logits, temperature=self.temperature, tanh_constant=self.tanh_constant)


def from_tokens(tokens: Sequence[int]) -> RecurrentGenotype:
    """Return the cell of a controller's tokens."""
    first, *rest = tokens
    nodes = [(FUNCTIONS[function], source) for source, function in zip(rest[::2], rest[1::2], strict=True)]
    return RecurrentGenotype.of_loose(nodes, FUNCTIONS[first])


def tokens_of(genotype: RecurrentGenotype) -> list[int]:
    """Return the tokens by which a controller chooses the cell."""
    rest = [token for function, source in genotype.nodes for token in (source, FUNCTIONS.index(function))]
    return [FUNCTIONS.index(genotype.first), *rest]
