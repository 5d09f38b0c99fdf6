"""The search cell: every node reads all earlier ones through all operations; the shares come with the call."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ofa_kit.nas.recurrent.alphas import edges_of_node
from ofa_kit.nas.recurrent.cell import ACTIVATIONS, RecurrentCell, State, first_node, uniform
from ofa_kit.nas.recurrent.dropout import Masks, dropped
from ofa_kit.nas.recurrent.genotype import FUNCTIONS, OPERATIONS

FIRST = OPERATIONS.index(FUNCTIONS[0])


class SearchCell(RecurrentCell):
    """DARTS's recurrent search cell; its choice is a mixture (edges, operations). A node has one matrix for all edges.

    `normalize`: every node goes through batch norm without affine, on the statistics of its own batch in training and
    evaluation alike (DARTS evaluates with running ones, which mix up all nodes and tokens).
    """

    between_states: ClassVar[tuple[str, ...]] = ("state_weight", "node_weights")

    def __init__(
        self, nodes: int, hidden: int, generator: torch.Generator, *, init_range: float = 0.04, normalize: bool = True
    ) -> None:
        super().__init__(hidden, 2, init_range, generator)
        self.nodes, self.normalize = nodes, normalize
        self.node_weights = uniform((nodes, hidden, 2 * hidden), init_range, generator)

    def step(self, x: Tensor, state: State, weights: Mapping[str, Tensor], masks: Masks, choice: Any) -> State:
        nodes = [self._normalized(first_node(x, state[0], weights, masks))]
        for node, weight in enumerate(weights["node_weights"].unbind(), start=1):
            before = torch.stack(nodes)
            gate, candidate = (dropped(before, masks.cell_state) @ weight).chunk(2, -1)
            nodes.append(self._normalized(mixed(before, candidate, gate, choice[edges_of_node(node)])))
        return (torch.stack(nodes[1:]).mean(0),)

    def _normalized(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True) if self.normalize else x


def mixed(before: Tensor, candidate: Tensor, gate: Tensor, shares: Tensor) -> Tensor:
    """Return the sum over edges and operations f of share * (s + c (f(h) - s)); `none` adds nothing.

    `before` s, `candidate` h and `gate` are (edges, batch, hidden), `shares` (edges, operations).
    """
    shares = shares[:, :, None, None]
    c = torch.sigmoid(gate)
    activated = sum(shares[:, FIRST + k] * ACTIVATIONS[name](candidate) for k, name in enumerate(FUNCTIONS))
    kept = shares[:, FIRST:].sum(1)
    return torch.lerp(kept * before, torch.as_tensor(activated), c).sum(0)
