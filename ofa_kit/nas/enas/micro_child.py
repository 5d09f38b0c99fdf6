"""The child of a micro search: weights for every choice of every edge; a call computes the cells that come with it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.nas.cells.arc import EDGES, MICRO_OPERATIONS
from ofa_kit.nas.cells.ends import AuxiliaryHead, make_stem, pooled, stem_channels, through_stem
from ofa_kit.nas.cells.genotype import INPUTS, Cell, Edge, Genotype
from ofa_kit.nas.cells.network import CellNetworkShape, Dropout, fitted_inputs
from ofa_kit.nas.cells.operations import make_operation, own_statistics
from ofa_kit.nas.cells.plan import CellPlace, auxiliary_index


class SharedEdge(nn.Module):
    """One of the two edges of a node: own weights for each operation on each node that it may read."""

    def __init__(self, place: CellPlace, node: int, operations: Sequence[str]) -> None:
        super().__init__()
        self.choices = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: make_operation(name, place.channels, place.stride(source), own_statistics, "enas")
                    for name in operations
                }
            )
            for source in range(node)
        )

    def forward(self, states: Sequence[Tensor], edge: Edge) -> Tensor:
        """Map the nodes before, (N, C, S, S) each, to what the edge gives."""
        operations = self.choices[edge.input]
        assert isinstance(operations, nn.ModuleDict)
        out: Tensor = operations[edge.operation](states[edge.input])
        return out


class SharedJoin(nn.Module):
    """ReLU, a 1x1 convolution over the joined nodes by their own slices of its weight, batch norm."""

    def __init__(self, channels: int, nodes: int) -> None:
        super().__init__()
        self.slices = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in range(nodes))
        self.norm = own_statistics(channels)

    def forward(self, states: Sequence[Tensor], concat: Sequence[int]) -> Tensor:
        """Map all nodes, (N, C, S, S) each, to (N, C, S, S)."""
        weights = []
        for node in concat:
            part = self.slices[node - INPUTS]
            assert isinstance(part, nn.Conv2d)
            weights.append(part.weight)
        joined = torch.relu(torch.cat([states[node] for node in concat], 1))
        out: Tensor = self.norm(F.conv2d(joined, torch.cat(weights, 1)))
        return out


class SharedCell(nn.Module):
    """All cells of one place in the network."""

    def __init__(self, place: CellPlace, channels: tuple[int, int], nodes: int, operations: Sequence[str]) -> None:
        super().__init__()
        self.reduction = place.reduction
        self.inputs = fitted_inputs(place, channels, own_statistics)
        self.edges = nn.ModuleList(
            SharedEdge(place, node, operations) for node in range(INPUTS, INPUTS + nodes) for _ in range(EDGES)
        )
        self.join = SharedJoin(place.channels, nodes)

    def forward(self, before: Tensor, last: Tensor, cell: Cell) -> Tensor:
        """Map the outputs of the two cells before to this one's (N, C, S', S')."""
        states = [self.inputs[0](before), self.inputs[1](last)]
        modules = iter(self.edges)
        for edges in cell.nodes:
            first, second = (next(modules)(states, edge) for edge in edges)
            states.append(first + second)
        out: Tensor = self.join(states, cell.concat)
        return out


class MicroChild(nn.Module):
    """The network whose weights all cells share; `child(images, genotype)` gives logits.

    Batch norm always uses the batch's own statistics and remembers none. A cell's output has the channels of a node,
    whatever it joins: so a cell's weights do not depend on the cells before. Operations of a reduction cell that read
    its inputs have strides of 2, as in the paper and in the final network; the authors' search code halves both inputs
    first instead.
    """

    def __init__(
        self,
        shape: CellNetworkShape,
        *,
        nodes: int = 5,
        operations: Sequence[str] = MICRO_OPERATIONS,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.stem = make_stem(shape.stem, shape.in_channels, shape.channels, own_statistics)
        before = last = stem_channels(shape.stem, shape.channels)
        self.cells = nn.ModuleList()
        self.auxiliary: AuxiliaryHead | None = None
        for place in shape.places:
            self.cells.append(SharedCell(place, (before, last), nodes, operations))
            before, last = last, place.channels
            if auxiliary and place.index == auxiliary_index(shape.cells, "enas"):
                self.auxiliary = AuxiliaryHead(last, shape.num_classes, shape.stem, place.out_size, bias=False)
        self.classifier = nn.Linear(last, shape.num_classes, bias=False)

    def forward(self, images: Tensor, genotype: Genotype) -> Tensor:
        """Map images (N, C, S, S) to logits (N, classes) of a genotype's network."""
        return self.logits(images, genotype)[0]

    def logits(
        self, images: Tensor, genotype: Genotype, dropout: Dropout | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits (N, classes) and, in training, those of the auxiliary head where there is one."""
        before, last = through_stem(self.stem, images)
        extra = None
        for index, cell in enumerate(self.cells):
            assert isinstance(cell, SharedCell)
            before, last = last, cell(before, last, genotype.cell(reduction=cell.reduction))
            if index == auxiliary_index(self.shape.cells, "enas") and self.auxiliary is not None and self.training:
                extra = self.auxiliary(last)
        features = pooled(torch.relu(last))
        return self.classifier(features if dropout is None else dropout(features)), extra
