"""Perturbation-based selection (DARTS-PT, Wang et al. 2021): what hurts most when it is taken away stays.

Shares say little about how much a trained search network needs an operation. So edges are visited in random order;
on each the operation stays without which the validation loss is largest, and the network may train on between two
edges. Then each node keeps the two edges without which the loss is largest.
"""

from collections.abc import Callable, Sequence

import torch

from ofa_kit.nas.cells.genotype import INPUTS, NONE, Cell, Edge, Genotype, all_edges, edges_of_node, nodes_of_rows
from ofa_kit.nas.darts.alphas import Mixture
from ofa_kit.nas.darts.derive import KEPT, whole_cell

LossOf = Callable[[Mixture], float]
"""The validation loss of the search network under a mixture."""


def select(
    mixture: Mixture,
    operations: Sequence[str],
    loss_of: LossOf,
    generator: torch.Generator,
    *,
    tune: Callable[[Mixture], None] = lambda mixture: None,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Genotype:
    """Return the genotype of what the network cannot do without; `tune` trains it under the mixture so far.

    `watch(done, total)` hears of each decided edge.
    """
    selection = _Selection(mixture, operations, loss_of)
    rows = len(mixture.normal)
    order = torch.randperm(2 * rows, generator=generator).tolist()
    for done, number in enumerate(order, start=1):
        selection.choose_operation(number % rows, reduction=number >= rows)
        tune(selection.mixture)
        watch(done, len(order))
    return Genotype(selection.cell(reduction=False), selection.cell(reduction=True))


class _Selection:
    """The shares while edges are decided one by one."""

    def __init__(self, mixture: Mixture, operations: Sequence[str], loss_of: LossOf) -> None:
        self.operations, self.loss_of = operations, loss_of
        self.edges = all_edges(nodes_of_rows(len(mixture.normal)))
        self.mixture = mixture.detached()

    def choose_operation(self, row: int, *, reduction: bool) -> None:
        """Leave one operation on an edge."""
        losses = {
            index: self.loss_of(self._with_share(0.0, (row, index), reduction=reduction))
            for index, name in enumerate(self.operations)
            if name != NONE
        }
        shares = self.mixture.shares(reduction=reduction)
        shares[row] = 0
        shares[row, max(losses, key=losses.__getitem__)] = 1

    def cell(self, *, reduction: bool) -> Cell:
        """Return the cell of the two edges of each node that are missed most."""
        shares = self.mixture.shares(reduction=reduction)
        nodes = []
        for node in range(INPUTS, INPUTS + nodes_of_rows(len(shares))):
            rows = edges_of_node(self.edges, node)
            losses = {row: self.loss_of(self._without_edge(row, reduction=reduction)) for row in rows}
            kept = sorted(losses, key=losses.__getitem__, reverse=True)[:KEPT]
            nodes.append(tuple(Edge(self.operations[int(shares[row].argmax())], self.edges[row][1]) for row in kept))
        return whole_cell(nodes)

    def _without_edge(self, row: int, *, reduction: bool) -> Mixture:
        """Return the mixture without an edge: where edges have shares, channels that pass it by are gone with it."""
        changed = self._with_share(0.0, (row,), reduction=reduction)
        edge_shares = changed.edge_shares(reduction=reduction)
        if edge_shares is not None:
            edge_shares[row] = 0
        return changed

    def _with_share(self, share: float, place: tuple[int, ...], *, reduction: bool) -> Mixture:
        changed = self.mixture.detached()
        changed.shares(reduction=reduction)[place] = share
        return changed
