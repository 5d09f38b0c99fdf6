"""Alphas of a recurrent cell: a score for each operation on the way from each node to each later one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ofa_kit.nas.darts.alphas import START
from ofa_kit.nas.recurrent.genotype import NONE, OPERATIONS, RecurrentGenotype


@dataclass(frozen=True)
class RecurrentAlphas:
    """Scores (edges, operations); node n has the n edges from nodes 0 to n - 1, in this order."""

    scores: Tensor

    @classmethod
    def fresh(cls, nodes: int, generator: torch.Generator, *, device: torch.device | None = None) -> "RecurrentAlphas":
        """Return small random scores for a cell of `nodes` nodes beside node 0."""
        scores = START * torch.randn((nodes * (nodes + 1) // 2, len(OPERATIONS)), generator=generator)
        return cls(scores.to(device).requires_grad_())

    @property
    def tensors(self) -> list[Tensor]:
        """Return all that is learned."""
        return [self.scores]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "RecurrentAlphas":
        """Return other values in the order of `tensors`."""
        (scores,) = tensors
        return RecurrentAlphas(scores)

    def mixture(self) -> Tensor:
        """Return the share of each operation on each edge, (edges, operations)."""
        return self.scores.softmax(-1)

    def entropy(self) -> float:
        """Return the mean entropy of an edge's shares in nats; it starts at log(operations)."""
        with torch.no_grad():
            shares = self.scores.log_softmax(-1)
            return float(-(shares.exp() * shares).sum(-1).mean())


def edges_of_node(node: int) -> slice:
    """Return the rows of the edges that end at node 1, 2, ..."""
    start = node * (node - 1) // 2
    return slice(start, start + node)


def one_hot(genotype: RecurrentGenotype) -> Tensor:
    """Return the mixture (edges, operations) that is a genotype: `none` on all edges that it lacks."""
    count = len(genotype.nodes)
    mixture = torch.zeros((count * (count + 1) // 2, len(OPERATIONS)))
    mixture[:, OPERATIONS.index(NONE)] = 1
    for node, (function, source) in enumerate(genotype.nodes, start=1):
        row = edges_of_node(node).start + source
        mixture[row] = 0
        mixture[row, OPERATIONS.index(function)] = 1
    return mixture


@torch.no_grad()
def derive(mixture: Tensor, nodes: int) -> RecurrentGenotype:
    """Return the cell of the strongest edge into each node, `none` left out (Liu et al. 2019, sec. 2.4)."""
    first = OPERATIONS.index(NONE) + 1
    found = []
    for node in range(1, nodes + 1):
        shares = mixture[edges_of_node(node), first:].cpu()
        source = int(shares.amax(-1).argmax())
        found.append((OPERATIONS[first + int(shares[source].argmax())], source))
    return RecurrentGenotype.of_all(found)
