"""The network that a genotype describes: what is trained from scratch after a search, measured and exported."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ofa_kit.nas.cells.ends import AuxiliaryHead, make_stem, pooled, stem_channels, through_stem
from ofa_kit.nas.cells.genotype import Cell, Genotype
from ofa_kit.nas.cells.operations import FactorizedReduce, Norm, batch_norm, make_operation, pointwise
from ofa_kit.nas.cells.plan import CellPlace, Layout, Stem, auxiliary_index, places


@dataclass(frozen=True)
class DropPath:
    """An image loses the output of an edge with a probability, skip-connections excepted (Larsson et al. 2017)."""

    probability: float
    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, C, S, S) with some images zeroed and the others scaled up."""
        return _masked(x, (len(x), 1, 1, 1), self.probability, self.generator)

    def scaled(self, share: float) -> "DropPath":
        """Return the same with a share of the probability."""
        return DropPath(share * self.probability, self.generator)


@dataclass(frozen=True)
class Dropout:
    """A feature before the classifier is lost with a probability."""

    probability: float
    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        """Return (N, C) with some numbers zeroed and the others scaled up."""
        return _masked(x, tuple(x.shape), self.probability, self.generator)


@dataclass(frozen=True, kw_only=True)
class CellNetworkShape:
    """What a genotype's network needs to be made, beside the genotype."""

    cells: int
    channels: int
    in_channels: int = 3
    num_classes: int = 10
    image_size: int = 32
    stem: Stem = "small-images"
    layout: Layout = "darts"

    @property
    def has_biases(self) -> bool:
        """Whether classifiers add a bias."""
        return self.layout == "darts"

    @property
    def activates_end(self) -> bool:
        """Whether ReLU stands before the classifier's pooling."""
        return self.layout == "enas"

    @property
    def drops_more_in_later_cells(self) -> bool:
        """Whether drop-path grows from cell to cell, to its probability in the last one."""
        return self.layout == "enas"

    @property
    def places(self) -> list[CellPlace]:
        return places(cells=self.cells, channels=self.channels, image_size=self.image_size, stem=self.stem)


class CellModule(nn.Module):
    """One cell of a network."""

    def __init__(self, cell: Cell, place: CellPlace, channels: tuple[int, int], layout: Layout = "darts") -> None:
        super().__init__()
        self.cell = cell
        self.never_dropped = (nn.Identity,) if layout == "darts" else (nn.Identity, FactorizedReduce)
        self.inputs = make_inputs(place, channels, layout=layout)
        self.operations = nn.ModuleList(
            make_operation(operation, place.channels, place.stride(source), layout=layout)
            for operation, source in cell.pairs
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
                if drop is not None and not isinstance(operation, self.never_dropped):
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
            self.cells.append(CellModule(cell, place, (before, last), shape.layout))
            before, last = last, output_channels(cell, place)
            if auxiliary and place.index == auxiliary_index(shape.cells, shape.layout):
                head = AuxiliaryHead(last, shape.num_classes, shape.stem, place.out_size, bias=shape.has_biases)
                self.auxiliary = head
        self.classifier = nn.Linear(last, shape.num_classes, bias=shape.has_biases)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, S, S) to logits (N, classes)."""
        return self.logits(images)[0]

    def logits(
        self, images: Tensor, drop: DropPath | None = None, dropout: Dropout | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits (N, classes) and, in training, those of the auxiliary head where there is one."""
        before, last = through_stem(self.stem, images)
        extra = None
        for index, cell in enumerate(self.cells):
            if drop is not None and self.shape.drops_more_in_later_cells:
                before, last = last, cell(before, last, drop.scaled((index + 1) / self.shape.cells))
            else:
                before, last = last, cell(before, last, drop)
            if (
                index == auxiliary_index(self.shape.cells, self.shape.layout)
                and self.auxiliary is not None
                and self.training
            ):
                extra = self.auxiliary(last)
        features = pooled(torch.relu(last) if self.shape.activates_end else last)
        return self.classifier(features if dropout is None else dropout(features)), extra


def make_inputs(
    place: CellPlace, channels: tuple[int, int], norm: Norm = batch_norm, layout: Layout = "darts"
) -> nn.ModuleList:
    """Return the two modules that bring a cell's inputs to its channels and size."""
    if layout == "enas":
        before, last = fitted_inputs(place, channels, norm)
        return nn.ModuleList([before, nn.Sequential(last, pointwise(place.channels, place.channels, norm))])
    first: nn.Module
    if place.after_reduction:
        first = FactorizedReduce(channels[0], place.channels, norm)
    else:
        first = pointwise(channels[0], place.channels, norm)
    return nn.ModuleList([first, pointwise(channels[1], place.channels, norm)])


def fitted_inputs(place: CellPlace, channels: tuple[int, int], norm: Norm = batch_norm) -> nn.ModuleList:
    """Return two modules that change a cell's inputs only where they have other channels or another size."""
    found: list[nn.Module] = [
        nn.Identity() if number == place.channels else pointwise(number, place.channels, norm) for number in channels
    ]
    if place.after_reduction:
        found[0] = FactorizedReduce(channels[0], place.channels, norm)
    return nn.ModuleList(found)


def output_channels(cell: Cell, place: CellPlace) -> int:
    """Return the channels of a cell's output."""
    return len(cell.concat) * place.channels


def _masked(x: Tensor, shape: tuple[int, ...], probability: float, generator: torch.Generator) -> Tensor:
    kept = 1 - probability
    return x * ((torch.rand(shape, generator=generator) < kept).to(x) / kept)
