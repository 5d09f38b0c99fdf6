"""Recurrent cells: what every one of them has, the one that a genotype describes, and the LSTM beside it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ofa_kit.nas.recurrent.dropout import NO_MASKS, Masks, dropped
from ofa_kit.nas.recurrent.genotype import FIRST, RecurrentGenotype

State = tuple[Tensor, ...]
"""Tensors (batch, hidden); the first is the output."""
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


class RecurrentCell(nn.Module, ABC):
    """From inputs (rows, batch, hidden) and a state to outputs of the inputs' shape and the next state.

    `input_weight` and `state_weight` (hidden, gates * hidden) lead from the input and from the state. What there is to
    choose in a cell (a mixture in DARTS, a sampled cell in ENAS) comes with the call.
    """

    state_tensors: ClassVar[int] = 1
    between_states: ClassVar[tuple[str, ...]] = ("state_weight",)
    """Parameters that weight drop applies to."""

    def __init__(self, hidden: int, gates: int, init_range: float, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.input_weight = uniform((hidden, gates * hidden), init_range, generator)
        self.state_weight = uniform((hidden, gates * hidden), init_range, generator)

    def start(self, batch: int) -> State:
        """Return the state before the first token: zeros."""
        return tuple(self.state_weight.new_zeros((batch, self.hidden)) for _ in range(self.state_tensors))

    def forward(
        self, inputs: Tensor, state: State, masks: Masks = NO_MASKS, choice: Any = None
    ) -> tuple[Tensor, State]:
        """Run over all rows of (rows, batch, hidden)."""
        weights = self.matrices(masks, choice)
        projected = dropped(inputs, masks.cell_input) @ self.input_weight
        outputs = []
        for x in projected:
            state = self.step(x, state, weights, masks, choice)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def matrices(self, masks: Masks, choice: Any) -> dict[str, Tensor]:
        """Return what weight drop leaves of the parameters between states, as all steps of a segment read them."""
        return {name: dropped(getattr(self, name), masks.weights.get(name)) for name in self.between_states}

    @abstractmethod
    def step(self, x: Tensor, state: State, weights: Mapping[str, Tensor], masks: Masks, choice: Any) -> State:
        """Return the state after one token, whose input times `input_weight` is x (batch, gates * hidden)."""


class GenotypeCell(RecurrentCell):
    """The cell of a genotype: each node takes a share c of f(h) and keeps 1 - c of the node that it reads."""

    between_states: ClassVar[tuple[str, ...]] = ("state_weight", "node_weights")

    def __init__(
        self, genotype: RecurrentGenotype, hidden: int, generator: torch.Generator, *, init_range: float = 0.04
    ) -> None:
        super().__init__(hidden, 2, init_range, generator)
        self.genotype = genotype
        self.node_weights = uniform((len(genotype.nodes), hidden, 2 * hidden), init_range, generator)

    def step(self, x: Tensor, state: State, weights: Mapping[str, Tensor], masks: Masks, choice: Any) -> State:
        return (run_genotype(self.genotype, x, state[0], weights, masks),)


class LstmCell(RecurrentCell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) under the same dropout as the other cells."""

    state_tensors: ClassVar[int] = 2

    def __init__(self, hidden: int, generator: torch.Generator, *, init_range: float | None = None) -> None:
        init_range = hidden**-0.5 if init_range is None else init_range
        super().__init__(hidden, 4, init_range, generator)
        self.bias = uniform((4 * hidden,), init_range, generator)

    def step(self, x: Tensor, state: State, weights: Mapping[str, Tensor], masks: Masks, choice: Any) -> State:
        output, memory = state
        gates = x + dropped(output, masks.cell_state) @ weights["state_weight"] + self.bias
        take, keep, candidate, show = gates.chunk(4, -1)
        memory = torch.sigmoid(keep) * memory + torch.sigmoid(take) * torch.tanh(candidate)
        return torch.sigmoid(show) * torch.tanh(memory), memory


def run_genotype(
    genotype: RecurrentGenotype, x: Tensor, before: Tensor, weights: Mapping[str, Tensor], masks: Masks
) -> Tensor:
    """Return the output (batch, hidden) of a genotype's cell; `node_weights` has a matrix for each node after 0."""
    nodes = [first_node(x, before, weights, masks, genotype.first)]
    for (function, source), weight in zip(genotype.nodes, weights["node_weights"].unbind(), strict=True):
        read = nodes[source]
        gate, candidate = (dropped(read, masks.cell_state) @ weight).chunk(2, -1)
        nodes.append(highway(read, ACTIVATIONS[function](candidate), gate))
    return torch.stack([nodes[node] for node in genotype.concat]).mean(0)


def first_node(x: Tensor, before: Tensor, weights: Mapping[str, Tensor], masks: Masks, function: str = FIRST) -> Tensor:
    """Return node 0 of the cells of DARTS and ENAS: a share of f(input and state), the rest the state."""
    gate, candidate = (x + dropped(before, masks.cell_state) @ weights["state_weight"]).chunk(2, -1)
    return highway(before, ACTIVATIONS[function](candidate), gate)


def highway(before: Tensor, candidate: Tensor, gate: Tensor) -> Tensor:
    """Return before + c * (candidate - before) with c = sigmoid(gate)."""
    return torch.lerp(before, candidate, torch.sigmoid(gate))


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> nn.Parameter:
    """Return a parameter drawn from -bound to bound."""
    return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * bound)
