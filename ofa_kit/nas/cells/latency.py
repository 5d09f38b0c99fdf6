"""The latency of a genotype's network as a sum: measured times of operations and of what reads the joined nodes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ofa_kit.nas.cells.genotype import INPUTS, NONE, SKIP, Genotype, all_edges, nodes_of_rows
from ofa_kit.nas.cells.plan import CellPlace


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
    def identity(self) -> "OperationPlace":
        """Return what passes the same tensor on: handing it in and out takes a session time, too."""
        return OperationPlace(SKIP, self.channels, self.size, 1)

    @property
    def is_free(self) -> bool:
        """Whether nothing is computed: a skip-connection of stride 1."""
        return self.operation == NONE or (self.operation == SKIP and self.stride == 1)


@dataclass(frozen=True)
class InputPlace:
    """What brings the output of an earlier cell to the channels and size of a later one."""

    number: int
    """Of the input: 0 reads the last cell but one, 1 the last."""
    in_channels: int
    size: int
    """Rows and columns of what is read."""
    place: CellPlace
    """The cell that reads, as far as its inputs depend on it."""

    @property
    def key(self) -> str:
        place = self.place
        return f"input{self.number}-c{self.in_channels}-s{self.size}-to-c{place.channels}-s{place.in_size}"

    @property
    def identity(self) -> OperationPlace:
        """Return what passes the same tensor on."""
        return OperationPlace(SKIP, self.in_channels, self.size, 1)


@dataclass(frozen=True)
class CellLatency:
    """Milliseconds of each operation on each edge (edges, operations), summed over all cells of a kind."""

    operations: tuple[str, ...]
    normal_ms: Tensor
    reduce_ms: Tensor
    fixed_ms: float = 0.0
    """What no choice changes: stem and classifier, and the inputs of cells where all nodes are joined always."""
    normal_join_ms: Tensor | None = None
    """(nodes,): what reads the normal cells' outputs, by the number of joined nodes less one; None where all are."""
    reduce_join_ms: Tensor | None = None

    @classmethod
    def of_places(
        cls,
        places: Sequence[CellPlace],
        nodes: int,
        operations: Sequence[str],
        time_ms: Callable[[OperationPlace], float],
        fixed_ms: float = 0.0,
        input_ms: Callable[[InputPlace], float] | None = None,
    ) -> "CellLatency":
        """Add up the times of a network's cells; `input_ms` is given where cells join different numbers of nodes."""
        edges = all_edges(nodes)
        tables = {kind: torch.zeros((len(edges), len(operations)), dtype=torch.float64) for kind in (False, True)}
        for place in places:
            for row, (_, source) in enumerate(edges):
                for index, operation in enumerate(operations):
                    if operation != NONE:
                        tables[place.reduction][row, index] += time_ms(operation_place(operation, place, source))
        if input_ms is None:
            return cls(tuple(operations), tables[False], tables[True], fixed_ms)
        joins = {kind: torch.zeros(nodes, dtype=torch.float64) for kind in (False, True)}
        for reduction, joined, found in input_places(places, nodes):
            joins[reduction][joined - 1] += input_ms(found)
        return cls(tuple(operations), tables[False], tables[True], fixed_ms, joins[False], joins[True])

    def scaled(self, scale: float, fixed_ms: float, join_scale: float = 1.0) -> "CellLatency":
        """Return the times of operations and of what reads joined nodes multiplied, and another fixed time."""
        normal, reduce = (None if ms is None else join_scale * ms for ms in (self.normal_join_ms, self.reduce_join_ms))
        return CellLatency(self.operations, scale * self.normal_ms, scale * self.reduce_ms, fixed_ms, normal, reduce)

    def of_genotype(self, genotype: Genotype) -> float:
        """Return the predicted latency of a genotype in ms."""
        return self.fixed_ms + self.operations_ms(genotype) + self.joins_ms(genotype)

    def operations_ms(self, genotype: Genotype) -> float:
        """Return what the operations take."""
        rows = {edge: row for row, edge in enumerate(all_edges(nodes_of_rows(len(self.normal_ms))))}
        total = 0.0
        for cell, table_ms in ((genotype.normal, self.normal_ms), (genotype.reduce, self.reduce_ms)):
            for node, edges in enumerate(cell.nodes, start=INPUTS):
                for edge in edges:
                    total += float(table_ms[rows[node, edge.input], self.operations.index(edge.operation)])
        return total

    def joins_ms(self, genotype: Genotype) -> float:
        """Return what the readers of the joined nodes take; 0 where all nodes are joined always."""
        joins = ((genotype.normal, self.normal_join_ms), (genotype.reduce, self.reduce_join_ms))
        return sum(float(join_ms[len(cell.concat) - 1]) for cell, join_ms in joins if join_ms is not None)


def operation_place(operation: str, place: CellPlace, source: int) -> OperationPlace:
    """Return the place of an edge that reads node `source` of a cell."""
    return OperationPlace(operation, place.channels, place.size(source), place.stride(source))


def input_places(places: Sequence[CellPlace], nodes: int) -> Iterator[tuple[bool, int, InputPlace]]:
    """Yield (whether it reads a reduction cell, joined nodes of that, place) of all inputs that read a cell."""
    for reader in places:
        for number, ago in enumerate((2, 1)):
            if reader.index < ago:
                continue
            read = places[reader.index - ago]
            halves = reader.after_reduction and number == 0
            like = replace(reader, index=0, reduction=False, after_reduction=halves)
            for joined in range(1, nodes + 1):
                yield read.reduction, joined, InputPlace(number, joined * read.channels, read.out_size, like)
