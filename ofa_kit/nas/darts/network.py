"""The search network: cells whose edges hold all operations, mixed by shares that come with the call."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.ends import make_stem, pooled, stem_channels, through_stem
from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS, all_edges
from ofa_kit.nas.cells.network import CellNetworkShape, make_inputs
from ofa_kit.nas.cells.operations import Learned, batch_statistics, own_statistics
from ofa_kit.nas.cells.plan import CellPlace
from ofa_kit.nas.darts.alphas import Mixture
from ofa_kit.nas.darts.mixed import MixedOperation, PartialMixedOperation, Source


class SearchCell(nn.Module):
    """One cell with an edge from each node to each later one."""

    def __init__(
        self, place: CellPlace, channels: tuple[int, int], nodes: int, operations: Sequence[str], parts: int
    ) -> None:
        super().__init__()
        self.place, self.nodes, self.parts = place, nodes, parts
        self.inputs = make_inputs(place, channels, batch_statistics)
        strides = [place.stride(source) for _, source in all_edges(nodes)]
        self.edges = nn.ModuleList(
            PartialMixedOperation(operations, place.channels, stride, parts)
            if parts > 1
            else MixedOperation(operations, place.channels, stride)
            for stride in strides
        )

    def forward(self, before: Tensor, last: Tensor, shares: Tensor, edge_shares: Tensor | None) -> Tensor:
        """Map the outputs of the two cells before, after ReLU, to this cell's (N, nodes * C, S', S')."""
        sources = []
        for module, x in zip(self.inputs, (before, last), strict=True):
            assert isinstance(module, Learned)
            sources.append(self._source(module.norm(module.before_norm(x))))
        nodes: list[Tensor] = []
        rows = iter(range(len(self.edges)))
        for _ in range(self.nodes):
            total: Tensor | None = None
            for source in sources:
                row = next(rows)
                term: Tensor = self.edges[row](source, shares[row])
                if edge_shares is not None:
                    term = term * edge_shares[row]
                total = term if total is None else total.add_(term)
            assert total is not None
            nodes.append(total)
            sources.append(self._source(total))
        return torch.cat(nodes, 1)

    def _source(self, x: Tensor) -> Source:
        """Cut what is mixed from what passes by."""
        return Source(x) if self.parts == 1 else Source(*x.tensor_split([x.shape[1] // self.parts], 1))


class SearchNetwork(nn.Module):
    """All cells of a DARTS search; `network(images, mixture)` gives logits.

    Batch norm always uses the batch's own statistics and remembers none, so a call depends on weights, images and
    mixture alone.
    """

    def __init__(
        self,
        shape: CellNetworkShape,
        *,
        nodes: int = 4,
        operations: Sequence[str] = DARTS_OPERATIONS,
        parts: int = 1,
    ) -> None:
        super().__init__()
        if shape.channels % parts:
            raise RecipeError(f"{shape.channels} channels cannot be cut into {parts} equal parts; change one of them")
        self.shape = shape
        self.stem = make_stem(shape.stem, shape.in_channels, shape.channels, own_statistics)
        before = last = stem_channels(shape.stem, shape.channels)
        self.cells = nn.ModuleList()
        for place in shape.places:
            self.cells.append(SearchCell(place, (before, last), nodes, operations, parts))
            before, last = last, nodes * place.channels
        self.classifier = nn.Linear(last, shape.num_classes)

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Map images (N, C, S, S) to logits (N, classes)."""
        before, last = through_stem(self.stem, images)
        activated = torch.relu(before)
        for cell in self.cells:
            assert isinstance(cell, SearchCell)
            reduction = cell.place.reduction
            shares, edge_shares = mixture.shares(reduction=reduction), mixture.edge_shares(reduction=reduction)
            before, activated = activated, torch.relu(last)
            last = cell(before, activated, shares, edge_shares)
        logits: Tensor = self.classifier(pooled(last))
        return logits
