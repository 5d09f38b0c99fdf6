"""The controller of a micro search: for each node two earlier nodes by attention, then two operations."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ofa_kit.nas.cells.arc import EDGES, MICRO_OPERATIONS, micro_cell
from ofa_kit.nas.cells.genotype import INPUTS, Genotype
from ofa_kit.nas.reinforce.controller import Controller, StackedLstm, State, draw_uniform, squashed
from ofa_kit.nas.reinforce.decisions import Decisions

SEPARABLE = 2
"""The first operations are separable convolutions, which the authors' controller prefers at first."""
LEARNED_PREFERENCE, FIXED_PREFERENCE = 10.0, 0.25
"""Of their code: the bias that operations start with, and one of the normal cell that does not learn."""


class MicroController(Controller):
    """One LSTM that goes through the normal cell and then the reduction cell (Pham et al. 2018, sec. 2.4)."""

    def __init__(
        self,
        nodes: int,
        generator: torch.Generator,
        *,
        operations: int = len(MICRO_OPERATIONS),
        hidden: int = 64,
        bound: float = 0.1,
        temperature: float = 5.0,
        tanh_constant: float = 1.1,
        operation_reduce: float = 2.5,
    ) -> None:
        super().__init__()
        self.nodes, self.temperature = nodes, temperature
        self.tanh_constant, self.operation_reduce = tanh_constant, operation_reduce
        self.lstm = StackedLstm(hidden, 1)
        self.first = nn.Parameter(torch.empty(hidden))
        self.embedding = nn.Embedding(operations, hidden)
        self.operation = nn.Linear(hidden, operations)
        self.key, self.query = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.value = nn.Linear(hidden, 1, bias=False)
        draw_uniform(self, bound, generator)
        preferred = torch.arange(operations) < SEPARABLE
        with torch.no_grad():
            self.operation.bias.copy_(LEARNED_PREFERENCE * preferred)
        self.register_buffer("fixed", FIXED_PREFERENCE * (2.0 * preferred - 1), persistent=False)

    def walk(self, decisions: Decisions) -> None:
        state = self.lstm.start(decisions.count)
        assert isinstance(self.fixed, Tensor)
        for fixed in (self.fixed, torch.zeros_like(self.fixed)):
            state = self._walk_cell(decisions, state, fixed)

    def _walk_cell(self, decisions: Decisions, state: State, fixed: Tensor) -> State:
        first = self.first.expand(decisions.count, -1)
        rows = torch.arange(decisions.count)
        read: list[Tensor] = []
        keys: list[Tensor] = []
        for _ in range(INPUTS):
            output, state = self.lstm(first, state)
            read.append(torch.zeros_like(output))
            keys.append(self.key(output))
        for _ in range(self.nodes):
            inputs = first
            for _ in range(EDGES):
                output, state = self.lstm(inputs, state)
                attention = torch.tanh(torch.stack(keys, 1) + self.query(output)[:, None])
                inputs = torch.stack(read, 1)[rows, decisions.choose(self._squashed(self.value(attention)[..., 0]))]
            for _ in range(EDGES):
                output, state = self.lstm(inputs, state)
                logits = self._squashed(self.operation(output)) / self.operation_reduce + fixed
                inputs = self.embedding(decisions.choose(logits))
            output, state = self.lstm(inputs, state)
            read.append(output)
            keys.append(self.key(output))
        return state

    def _squashed(self, logits: Tensor) -> Tensor:
        return squashed(logits, temperature=self.temperature, tanh_constant=self.tanh_constant)


def genotype_of(tokens: Sequence[int]) -> Genotype:
    """Return the cells of a row of tokens: for each node both inputs, then both operations."""
    step = 2 * EDGES
    edges = [
        (tokens[start + edge], tokens[start + EDGES + edge])
        for start in range(0, len(tokens), step)
        for edge in range(EDGES)
    ]
    half = len(edges) // 2
    return Genotype(micro_cell(edges[:half]), micro_cell(edges[half:]))


def tokens_of(genotype: Genotype) -> list[int]:
    """Return the tokens that decide a genotype: the other direction of `genotype_of`."""
    found = []
    for cell in (genotype.normal, genotype.reduce):
        for edges in cell.nodes:
            found += [edge.input for edge in edges] + [MICRO_OPERATIONS.index(edge.operation) for edge in edges]
    return found
