"""Mixed operations: all operations of an edge at once, each with its share.

What edges have in common is computed once for each node that they read: ReLU, and pools with their batch norm. The
share of an operation that ends with batch norm is that norm's gamma, so its output is neither kept nor multiplied
again. `none` is not computed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.nas.cells.genotype import NONE, SKIP
from ofa_kit.nas.cells.operations import Learned, batch_statistics, make_operation

EPS = 1e-5


class Source:
    """What edges read of one node: (N, C, S, S) of the channels that are mixed, and what is derived of it.

    `rest` are the other channels, where there are any.
    """

    def __init__(self, x: Tensor, rest: Tensor | None = None) -> None:
        self.x, self.rest = x, rest
        self._activated: Tensor | None = None
        self._pools: dict[tuple[str, int], Tensor] = {}

    @property
    def activated(self) -> Tensor:
        """Return the node after ReLU."""
        if self._activated is None:
            self._activated = torch.relu(self.x)
        return self._activated

    def pooled(self, name: str, stride: int, pool: nn.Module) -> Tensor:
        """Return the node pooled and normalised."""
        if (name, stride) not in self._pools:
            self._pools[name, stride] = normalized(pool(self.x))
        return self._pools[name, stride]


class MixedOperation(nn.Module):
    """The operations of one edge."""

    def __init__(self, operations: Sequence[str], channels: int, stride: int) -> None:
        super().__init__()
        self.names, self.stride = tuple(operations), stride
        made = {name: make_operation(name, channels, stride, batch_statistics) for name in operations if name != NONE}
        self.operations = nn.ModuleDict(made)

    def forward(self, source: Source, shares: Tensor) -> Tensor:
        """Return the sum of all operations (N, C, S', S'), each times its share (operations,)."""
        total: Tensor | None = None
        for name, share in zip(self.names, shares.unbind(), strict=True):
            if name == NONE:
                continue
            operation = self.operations[name]
            if isinstance(operation, Learned):
                term = normalized(operation.before_norm(source.activated), share)
                total = term if total is None else total.add_(term)
                continue
            plain = source.x if name == SKIP else source.pooled(name, self.stride, operation)
            total = plain * share if total is None else total.addcmul_(plain, share)
        assert total is not None, "a search has operations beside none"
        return total


class PartialMixedOperation(nn.Module):
    """PC-DARTS (Xu et al. 2020): only the first 1/`parts` of the channels are mixed, the others pass by.

    Afterwards channels are shuffled, so that the next edge mixes others.
    """

    def __init__(self, operations: Sequence[str], channels: int, stride: int, parts: int) -> None:
        super().__init__()
        self.parts, self.stride = parts, stride
        self.mixed = MixedOperation(operations, channels // parts, stride)

    def forward(self, source: Source, shares: Tensor) -> Tensor:
        """Return (N, C, S', S') of the mixed channels and the others."""
        assert source.rest is not None
        passed = F.max_pool2d(source.rest, 2, ceil_mode=True) if self.stride == 2 else source.rest
        joined = torch.cat([self.mixed(source, shares), passed], 1)
        return F.channel_shuffle(joined, self.parts)


def normalized(x: Tensor, gamma: Tensor | None = None) -> Tensor:
    """Return (N, C, S, S) with mean 0 and deviation 1, or the scalar `gamma`, in each channel of the batch.

    The weights are copied: with channels last, PyTorch's gradient reads those of an expanded scalar beyond its memory.
    """
    weight = None if gamma is None else gamma.expand(x.shape[1]).contiguous()
    return F.batch_norm(x, None, None, weight, None, training=True, eps=EPS)
