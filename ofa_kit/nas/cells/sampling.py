"""Random cells: what a search has to beat."""

from collections.abc import Sequence

import torch

from ofa_kit.nas.cells.arc import EDGES, MICRO_OPERATIONS, micro_cell
from ofa_kit.nas.cells.genotype import INPUTS, NONE, Cell, Edge, Genotype


def random_genotype(nodes: int, operations: Sequence[str], generator: torch.Generator) -> Genotype:
    """Return uniform cells as DARTS derives them: each node reads two different ones, all nodes are joined."""
    return Genotype(*(_random_cell(nodes, operations, generator) for _ in range(2)))


def random_micro_genotype(nodes: int, generator: torch.Generator) -> Genotype:
    """Return uniform cells of ENAS's micro space: each node reads any two, twice the same included."""
    return Genotype(*(micro_cell(_random_edges(nodes, generator)) for _ in range(2)))


def uniform_genotype(nodes: int, operation: str) -> Genotype:
    """Return cells that hold one operation alone, each node on the two inputs."""
    edges = (Edge(operation, 0), Edge(operation, 1))
    cell = Cell((edges,) * nodes, tuple(range(INPUTS, INPUTS + nodes)))
    return Genotype(cell, cell)


def _random_cell(nodes: int, operations: Sequence[str], generator: torch.Generator) -> Cell:
    known = [name for name in operations if name != NONE]
    found = []
    for node in range(INPUTS, INPUTS + nodes):
        sources = torch.randperm(node, generator=generator)[:2].tolist()
        drawn = torch.randint(len(known), (2,), generator=generator).tolist()
        found.append(tuple(Edge(known[index], source) for index, source in zip(drawn, sources, strict=True)))
    return Cell(tuple(found), tuple(range(INPUTS, INPUTS + nodes)))


def _random_edges(nodes: int, generator: torch.Generator) -> list[tuple[int, int]]:
    def below(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    return [(below(INPUTS + edge // EDGES), below(len(MICRO_OPERATIONS))) for edge in range(EDGES * nodes)]
