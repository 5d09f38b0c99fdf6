"""Expected latency of what a search is about to derive: differentiable, from measured times of operations.

A derived cell keeps two edges of each node and never `none`. So an operation counts its share among those that are not
`none`: otherwise `none` would lower the number and change no network. An edge counts its chance to be one of two
that are kept: 2 / n in a node with n inputs or, where edges are scored, the chance when two are drawn by their shares
without putting back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ofa_kit.nas.cells.genotype import NONE, all_edges, edges_of_node, nodes_of_rows
from ofa_kit.nas.cells.latency import CellLatency
from ofa_kit.nas.darts.alphas import Alphas
from ofa_kit.nas.darts.derive import KEPT, derive


def expected_ms(latency: CellLatency, alphas: Alphas) -> Tensor:
    """Return the expected latency in ms, a scalar with a gradient."""
    mixture = alphas.mixture()
    total = torch.full((), latency.fixed_ms, dtype=latency.normal_ms.dtype, device=alphas.normal.device)
    kept = [index for index, name in enumerate(latency.operations) if name != NONE]
    for reduction, table_ms in ((False, latency.normal_ms), (True, latency.reduce_ms)):
        shares, edge_shares = mixture.shares(reduction=reduction), mixture.edge_shares(reduction=reduction)
        shares = shares[:, kept] / shares[:, kept].sum(1, keepdim=True)
        by_edge = (shares * table_ms[:, kept].to(shares.device)).sum(1)
        total = total + (by_edge * _kept_share(edge_shares, shares)).sum()
    return total


@dataclass(frozen=True)
class LatencyTerm:
    """What the latency adds to the validation loss."""

    latency: CellLatency
    weight: float
    """Loss for each ms or, with a target, for each length of it."""
    target_ms: float | None = None
    """None: always paid. Else only while the cells that would be derived now are slower: the mixture itself stays near
    the mean of all operations for most of a search, and would be held back long after its strongest are fast."""

    def penalty(self, alphas: Alphas) -> Tensor:
        """Return the term, a scalar with a gradient."""
        latency_ms = expected_ms(self.latency, alphas)
        if self.target_ms is None:
            return self.weight * latency_ms
        return self.weight * latency_ms / self.target_ms * float(not self.is_met(alphas))

    def is_met(self, alphas: Alphas) -> bool:
        """Whether the cells that would be derived now are predicted to be within the target, if there is one."""
        if self.target_ms is None:
            return True
        derived = derive(alphas.mixture(), self.latency.operations)
        return self.latency.of_genotype(derived) <= self.target_ms

    def gradients(self, alphas: Alphas) -> tuple[Tensor, ...]:
        """Return its gradient in the order of `alphas.tensors`."""
        return torch.autograd.grad(self.penalty(alphas), alphas.tensors, materialize_grads=True)


def drawn_in_two(shares: Tensor) -> Tensor:
    """Return for each of some edges the chance to be drawn first or second by shares (edges,) that sum up to 1."""
    after = shares / (1 - shares).clamp_min(torch.finfo(shares.dtype).eps)
    others = 1 - torch.eye(len(shares), dtype=shares.dtype, device=shares.device)
    return shares * (1 + others @ after)


def _kept_share(edge_shares: Tensor | None, like: Tensor) -> Tensor:
    """Return how much each edge counts: 2 in each node together."""
    edges = all_edges(nodes_of_rows(len(like)))
    if edge_shares is None:
        return like.new_tensor([KEPT / len(edges_of_node(edges, node)) for node, _ in edges])
    by_node = edge_shares.split([len(edges_of_node(edges, node)) for node in sorted({node for node, _ in edges})])
    return torch.cat([drawn_in_two(shares) for shares in by_node])
