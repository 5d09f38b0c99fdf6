"""From alphas to a genotype: for each node the two edges with the strongest operation, `none` left out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ofa_kit.nas.cells.genotype import INPUTS, NONE, Cell, Edge, Genotype, all_edges, edges_of_node, nodes_of_rows
from ofa_kit.nas.darts.alphas import Mixture

KEPT = 2
"""Edges that a node keeps."""


def derive(mixture: Mixture, operations: Sequence[str]) -> Genotype:
    """Return the genotype whose edges and operations have the largest shares (Liu et al. 2019, sec. 2.4)."""
    return Genotype(_cell(mixture, operations, reduction=False), _cell(mixture, operations, reduction=True))


def strongest(row: Tensor, operations: Sequence[str]) -> tuple[float, str]:
    """Return the largest share of an operation that is not `none`, and the first operation that has it."""
    known = [(float(share), name) for share, name in zip(row, operations, strict=True) if name != NONE]
    return max(known, key=lambda found: found[0])


def whole_cell(nodes: Sequence[tuple[Edge, ...]]) -> Cell:
    """Return the cell that joins all its inner nodes, as those of DARTS do."""
    return Cell(tuple(nodes), tuple(range(INPUTS, INPUTS + len(nodes))))


@torch.no_grad()
def _cell(mixture: Mixture, operations: Sequence[str], *, reduction: bool) -> Cell:
    shares, edge_shares = mixture.shares(reduction=reduction), mixture.edge_shares(reduction=reduction)
    strengths = shares if edge_shares is None else shares * edge_shares[:, None]
    count = nodes_of_rows(len(shares))
    edges = all_edges(count)
    best = [strongest(row, operations) for row in strengths]
    nodes = []
    for node in range(INPUTS, INPUTS + count):
        rows = sorted(edges_of_node(edges, node), key=lambda row: best[row][0], reverse=True)[:KEPT]
        nodes.append(tuple(Edge(best[row][1], edges[row][1]) for row in rows))
    return whole_cell(nodes)
