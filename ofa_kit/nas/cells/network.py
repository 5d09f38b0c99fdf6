"""The network that a genotype describes: what is trained from scratch after a search, measured and exported."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ofa_kit.nas.cells.ends import AuxiliaryHead, make_stem, pooled, stem_channels, through_stem
from ofa_kit.nas.cells.genotype import Cell, Genotype
from ofa_kit.nas.cells.operations import FactorizedReduce, Norm, batch_norm, make_operation, pointwise
from ofa_kit.nas.cells.plan import CellPlace, Stem, auxiliary_index, places


@dataclass(frozen=True)
class DropPath:
    """An image loses the output of an edge with a probability, skip-connections excepted (Larsson et al. 2017)."""

    probability: float
    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, C, S, S) with some images zeroed and the others scaled up."""
        kept = 1 - self.probability
        mask = (torch.rand((len(x), 1, 1, 1), generator=self.generator) < kept).to(x) / kept
        return x * mask


@dataclass(frozen=True, kw_only=True)
class CellNetworkShape:
    """What a genotype's network needs to be made, beside the genotype."""

    cells: int
    channels: int
    in_channels: int = 3
    num_classes: int = 10
    image_size: int = 32
    stem: Stem = "small-images"

    @property
    def places(self) -> list[CellPlace]:
        return places(cells=self.cells, channels=self.channels, image_size=self.image_size, stem=self.stem)


class CellModule(nn.Module):
    """One cell of a network."""

    def __init__(self, cell: Cell, place: CellPlace, channels: tuple[int, int]) -> None:
        super().__init__()
        self.cell = cell
        self.inputs = make_inputs(place, channels)
        self.operations = nn.ModuleList(
            make_operation(operation, place.channels, place.stride(source)) for operation, source in cell.pairs
        )

    def forward(self, before: Tensor, last: Tensor, drop: DropPath | None = None) -> Tensor:
        """Map the outputs of the two cells before (N, C, S, S) to this cell's (N, C', S', S')."""
        states = [self.inputs[0](before), self.inputs[1](last)]
        operations = iter(self.operations)
        for edges in self.cell.nodes:
            terms = []
            for edge in edges:
                operation = next(operations)
                term = operation(states[edge.input])
                if drop is not None and not isinstance(operation, nn.Identity):
                    term = drop(term)
                terms.append(term)
            states.append(sum(terms[1:], terms[0]))
        return torch.cat([states[node] for node in self.cell.concat], 1)


class CellNetwork(nn.Module):
    """Stem, cells, classifier; with an auxiliary head where one is asked for."""

    def __init__(self, genotype: Genotype, shape: CellNetworkShape, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.genotype, self.shape = genotype, shape
        self.stem = make_stem(shape.stem, shape.in_channels, shape.channels)
        before = last = stem_channels(shape.stem, shape.channels)
        self.cells = nn.ModuleList()
        self.auxiliary: AuxiliaryHead | None = None
        for place in shape.places:
            cell = genotype.cell(reduction=place.reduction)
            self.cells.append(CellModule(cell, place, (before, last)))
            before, last = last, output_channels(cell, place)
            if auxiliary and place.index == auxiliary_index(shape.cells):
                self.auxiliary = AuxiliaryHead(last, shape.num_classes, shape.stem, place.out_size)
        self.classifier = nn.Linear(last, shape.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, S, S) to logits (N, classes)."""
        return self.logits(images)[0]

    def logits(self, images: Tensor, drop: DropPath | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the logits (N, classes) and, in training, those of the auxiliary head where there is one."""
        before, last = through_stem(self.stem, images)
        extra = None
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last, drop)
            if index == auxiliary_index(self.shape.cells) and self.auxiliary is not None and self.training:
                extra = self.auxiliary(last)
        return self.classifier(pooled(last)), extra


def make_inputs(place: CellPlace, channels: tuple[int, int], norm: Norm = batch_norm) -> nn.ModuleList:
    """Return the two modules that bring a cell's inputs to its channels and size."""
    first: nn.Module
    if place.after_reduction:
        first = FactorizedReduce(channels[0], place.channels, norm)
    else:
        first = pointwise(channels[0], place.channels, norm)
    return nn.ModuleList([first, pointwise(channels[1], place.channels, norm)])


def output_channels(cell: Cell, place: CellPlace) -> int:
    """Return the channels of a cell's output."""
    return len(cell.concat) * place.channels
