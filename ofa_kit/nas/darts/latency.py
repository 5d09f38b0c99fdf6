"""Expected latency of what a search is about to derive: differentiable, from measured times of operations.

A derived cell keeps two edges of each node and never `none`. So an operation counts its share among those that are not
`none`: otherwise `none` would lower the number and change no network. An edge counts its chance to be one of two
that are kept: 2 / n in a node with n inputs or, where edges are scored, the chance when two are drawn by their shares
without putting back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ofa_kit.nas.cells.genotype import NONE, SKIP, Genotype, all_edges, edges_of_node
from ofa_kit.nas.cells.plan import CellPlace
from ofa_kit.nas.darts.alphas import Alphas, nodes_of_rows
from ofa_kit.nas.darts.derive import KEPT


@dataclass(frozen=True)
class OperationPlace:
    """An operation where it stands: what its time depends on."""

    operation: str
    channels: int
    size: int
    """Rows and columns of the input."""
    stride: int

    @property
    def key(self) -> str:
        return f"{self.operation}-c{self.channels}-s{self.size}-t{self.stride}"

    @property
    def is_free(self) -> bool:
        """Whether nothing is computed: a skip-connection of stride 1."""
        return self.operation == NONE or (self.operation == SKIP and self.stride == 1)


@dataclass(frozen=True)
class CellLatency:
    """Milliseconds of each operation on each edge (edges, operations), summed over all cells of a kind."""

    operations: tuple[str, ...]
    normal_ms: Tensor
    reduce_ms: Tensor
    fixed_ms: float = 0.0
    """Stem, inputs of cells and classifier."""

    @classmethod
    def of_places(
        cls,
        places: Sequence[CellPlace],
        nodes: int,
        operations: Sequence[str],
        time_ms: Callable[[OperationPlace], float],
        fixed_ms: float = 0.0,
    ) -> "CellLatency":
        """Add up the times of a network's cells."""
        edges = all_edges(nodes)
        tables = {kind: torch.zeros((len(edges), len(operations)), dtype=torch.float64) for kind in (False, True)}
        for place in places:
            for row, (_, source) in enumerate(edges):
                for index, operation in enumerate(operations):
                    if operation != NONE:
                        tables[place.reduction][row, index] += time_ms(operation_place(operation, place, source))
        return cls(tuple(operations), tables[False], tables[True], fixed_ms)

    def scaled(self, scale: float, fixed_ms: float) -> "CellLatency":
        """Return the times of operations multiplied by `scale`, and another fixed time."""
        return CellLatency(self.operations, scale * self.normal_ms, scale * self.reduce_ms, fixed_ms)

    def expected_ms(self, alphas: Alphas) -> Tensor:
        """Return the expected latency in ms, a scalar with a gradient."""
        mixture = alphas.mixture()
        total = torch.full((), self.fixed_ms, dtype=self.normal_ms.dtype, device=alphas.normal.device)
        kept = [index for index, name in enumerate(self.operations) if name != NONE]
        for reduction, table_ms in ((False, self.normal_ms), (True, self.reduce_ms)):
            shares, edge_shares = mixture.shares(reduction=reduction), mixture.edge_shares(reduction=reduction)
            shares = shares[:, kept] / shares[:, kept].sum(1, keepdim=True)
            by_edge = (shares * table_ms[:, kept].to(shares.device)).sum(1)
            total = total + (by_edge * self._kept_share(edge_shares, shares)).sum()
        return total

    def of_genotype(self, genotype: Genotype) -> float:
        """Return the predicted latency of a derived genotype in ms."""
        rows = {edge: row for row, edge in enumerate(all_edges(nodes_of_rows(len(self.normal_ms))))}
        total = self.fixed_ms
        for cell, table_ms in ((genotype.normal, self.normal_ms), (genotype.reduce, self.reduce_ms)):
            for node, edges in enumerate(cell.nodes, start=2):
                for edge in edges:
                    total += float(table_ms[rows[node, edge.input], self.operations.index(edge.operation)])
        return total

    def _kept_share(self, edge_shares: Tensor | None, like: Tensor) -> Tensor:
        """Return how much each edge counts: 2 in each node together."""
        edges = all_edges(nodes_of_rows(len(like)))
        if edge_shares is None:
            return like.new_tensor([KEPT / len(edges_of_node(edges, node)) for node, _ in edges])
        by_node = edge_shares.split([len(edges_of_node(edges, node)) for node in sorted({node for node, _ in edges})])
        return torch.cat([drawn_in_two(shares) for shares in by_node])


@dataclass(frozen=True)
class LatencyTerm:
    """What the latency adds to the validation loss."""

    latency: CellLatency
    weight: float
    """Loss for each ms or, with a target, for exceeding it by its own length."""
    target_ms: float | None = None
    """None: every ms counts. Else only what lies above."""

    def penalty(self, alphas: Alphas) -> Tensor:
        """Return the term, a scalar with a gradient."""
        expected_ms = self.latency.expected_ms(alphas)
        if self.target_ms is None:
            return self.weight * expected_ms
        return self.weight * torch.relu(expected_ms / self.target_ms - 1)

    def gradients(self, alphas: Alphas) -> tuple[Tensor, ...]:
        """Return its gradient in the order of `alphas.tensors`."""
        return torch.autograd.grad(self.penalty(alphas), alphas.tensors, materialize_grads=True)


def drawn_in_two(shares: Tensor) -> Tensor:
    """Return for each of some edges the chance to be drawn first or second by shares (edges,) that sum up to 1."""
    after = shares / (1 - shares).clamp_min(torch.finfo(shares.dtype).eps)
    others = 1 - torch.eye(len(shares), dtype=shares.dtype, device=shares.device)
    return shares * (1 + others @ after)


def operation_place(operation: str, place: CellPlace, source: int) -> OperationPlace:
    """Return the place of an edge that reads node `source` of a cell."""
    return OperationPlace(operation, place.channels, place.size(source), place.stride(source))
