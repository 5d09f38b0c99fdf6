"""Alphas: what a DARTS search learns about operations, and the shares in which they are mixed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ofa_kit.nas.cells.genotype import all_edges, edges_of_node, nodes_of_rows

START = 1e-3
"""Standard deviation of fresh alphas."""


@dataclass(frozen=True)
class Mixture:
    """The share of each operation on each edge (edges, operations), and of each edge in its node (edges,)."""

    normal: Tensor
    reduce: Tensor
    normal_edges: Tensor | None = None
    """None: all edges of a node count alike, with 1."""
    reduce_edges: Tensor | None = None

    def shares(self, *, reduction: bool) -> Tensor:
        """Return operation shares of one kind of cell."""
        return self.reduce if reduction else self.normal

    def edge_shares(self, *, reduction: bool) -> Tensor | None:
        """Return edge shares of one kind of cell."""
        return self.reduce_edges if reduction else self.normal_edges

    def detached(self) -> "Mixture":
        """Return a copy that no gradient reaches."""
        every = (self.normal, self.reduce, self.normal_edges, self.reduce_edges)
        return Mixture(*(None if shares is None else shares.detach().clone() for shares in every))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Alphas:
    """Scores of operations (edges, operations), one set for all normal and one for all reduction cells.

    With `normal_edges` and `reduce_edges` (edges,) the edges of a node are scored too (PC-DARTS, Xu et al. 2020).
    """

    normal: Tensor
    reduce: Tensor
    normal_edges: Tensor | None = None
    reduce_edges: Tensor | None = None

    @classmethod
    def fresh(
        cls,
        nodes: int,
        operations: int,
        generator: torch.Generator,
        *,
        score_edges: bool = False,
        device: torch.device | None = None,
    ) -> "Alphas":
        """Return small random scores for cells of `nodes` inner nodes."""
        rows = len(all_edges(nodes))
        shapes = [(rows, operations)] * 2 + [(rows,)] * (2 if score_edges else 0)
        found = [START * torch.randn(shape, generator=generator) for shape in shapes]
        return cls(*(tensor.to(device).requires_grad_() for tensor in found))

    @property
    def tensors(self) -> list[Tensor]:
        """Return all that is learned."""
        optional = (self.normal_edges, self.reduce_edges)
        return [self.normal, self.reduce, *(tensor for tensor in optional if tensor is not None)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Alphas":
        """Return other values in the order of `tensors`."""
        assert len(tensors) == len(self.tensors)
        return Alphas(*tensors)

    @property
    def nodes(self) -> int:
        """Return the number of inner nodes of a cell."""
        return nodes_of_rows(len(self.normal))

    def mixture(self) -> Mixture:
        """Return the softmax over operations and, where edges are scored, over the edges of each node."""
        return Mixture(
            self.normal.softmax(-1),
            self.reduce.softmax(-1),
            None if self.normal_edges is None else softmax_by_node(self.normal_edges),
            None if self.reduce_edges is None else softmax_by_node(self.reduce_edges),
        )

    def entropy(self) -> float:
        """Return the mean entropy of the operation shares of an edge in nats: low when the search has made up its mind.

        It starts at log(operations).
        """
        with torch.no_grad():
            shares = torch.cat([self.normal, self.reduce]).log_softmax(-1)
            return float(-(shares.exp() * shares).sum(-1).mean())


def softmax_by_node(scores: Tensor) -> Tensor:
    """Return the softmax of edge scores (edges,) over the edges of each node."""
    nodes = nodes_of_rows(len(scores))
    edges = all_edges(nodes)
    return torch.cat([scores[edges_of_node(edges, node)].softmax(0) for node in range(2, 2 + nodes)])
