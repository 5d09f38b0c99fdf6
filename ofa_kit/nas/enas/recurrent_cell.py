"""SharedCell: the weights of all recurrent cells of ENAS; the cell to run comes with the call."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ofa_kit.nas.recurrent.alphas import edges_of_node
from ofa_kit.nas.recurrent.cell import RecurrentCell, State, run_genotype, uniform
from ofa_kit.nas.recurrent.dropout import Masks, dropped
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype

MOST_NORM = 25.0
"""Of a row of the state. Shared weights fit no single cell, and one that is drawn may blow the state up."""


class SharedCell(RecurrentCell):
    """A matrix for each node and each earlier node (Pham et al. 2018, sec. 2.1); its choice is a RecurrentGenotype.

    It computes what the genotype's own cell would with the same matrices, as long as no row of the state is longer
    than `MOST_NORM`.
    """

    between_states: ClassVar[tuple[str, ...]] = ("state_weight", "edge_weights")

    def __init__(self, nodes: int, hidden: int, generator: torch.Generator, *, init_range: float = 0.04) -> None:
        super().__init__(hidden, 2, init_range, generator)
        self.edge_weights = uniform((nodes * (nodes + 1) // 2, hidden, 2 * hidden), init_range, generator)

    def matrices(self, masks: Masks, choice: Any) -> dict[str, Tensor]:
        """Return the matrices of the chosen cell alone."""
        rows = rows_of(choice)
        mask = masks.weights.get("edge_weights")
        chosen = dropped(self.edge_weights[rows], None if mask is None else mask[rows])
        state_weight = dropped(self.state_weight, masks.weights.get("state_weight"))
        return {"state_weight": state_weight, "node_weights": chosen}

    def step(self, x: Tensor, state: State, weights: Mapping[str, Tensor], masks: Masks, choice: Any) -> State:
        output = run_genotype(choice, x, state[0], weights, masks)
        norm = output.detach().norm(dim=-1, keepdim=True)
        return (output * (MOST_NORM / norm.clamp(min=MOST_NORM)),)


def rows_of(genotype: RecurrentGenotype) -> list[int]:
    """Return which matrix each node after node 0 reads through."""
    return [edges_of_node(node).start + source for node, (_, source) in enumerate(genotype.nodes, start=1)]
