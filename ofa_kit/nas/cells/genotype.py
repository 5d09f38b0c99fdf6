"""Cell and Genotype: which operations join which nodes, as values that compare and hash."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ofa_kit.errors import UnknownNameError, WeightsError

NONE = "none"
SKIP = "skip_connect"
DARTS_OPERATIONS = (
    NONE,
    "max_pool_3x3",
    "avg_pool_3x3",
    SKIP,
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The operations of DARTS on images, in its order."""
OPERATIONS = (*DARTS_OPERATIONS[1:], "sep_conv_7x7", "conv_7x1_1x7")
"""All that a cell can hold: `none` is a choice of a search alone; the last two are NASNet's and AmoebaNet's."""
INPUTS = 2
"""A cell reads the outputs of the two cells before it: nodes 0 and 1."""


@dataclass(frozen=True, order=True)
class Edge:
    """An operation and the node that it reads."""

    operation: str
    input: int


@dataclass(frozen=True)
class Cell:
    """Nodes 2, 3, ... each sum up what their edges give; the output is the concatenation of some nodes."""

    nodes: tuple[tuple[Edge, ...], ...]
    """The edges of each inner node, in order."""
    concat: tuple[int, ...]
    """Inner nodes whose outputs are joined, by number, from 2 on."""
    operations: tuple[str, ...] = field(default=OPERATIONS, repr=False, compare=False)
    """What is allowed on an edge."""

    def __post_init__(self) -> None:
        for number, edges in enumerate(self.nodes, start=INPUTS):
            if not edges:
                raise WeightsError(f"node {number} of a cell reads nothing; give it an (operation, input) pair")
            for edge in edges:
                if edge.operation not in self.operations:
                    raise UnknownNameError("operation", edge.operation, self.operations)
                if not 0 <= edge.input < number:
                    raise WeightsError(
                        f"node {number} of a cell reads node {edge.input}; it can read 0 to {number - 1}"
                    )
        last = INPUTS + len(self.nodes) - 1
        odd = [node for node in self.concat if not INPUTS <= node <= last]
        if odd or not self.concat or len(set(self.concat)) < len(self.concat):
            raise WeightsError(
                f"a cell joins nodes {list(self.concat)}; give different inner ones of {INPUTS} to {last}"
            )

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[str, int]], concat: Iterable[int], *, per_node: int = 2) -> "Cell":
        """Return the cell of a flat list of (operation, input), `per_node` of them for each node."""
        edges = [Edge(operation, source) for operation, source in pairs]
        if not edges or len(edges) % per_node:
            raise WeightsError(
                f"a cell has {per_node} (operation, input) pairs for each node, found {len(edges)} pairs"
            )
        starts = range(0, len(edges), per_node)
        return cls(tuple(tuple(edges[start : start + per_node]) for start in starts), tuple(concat))

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Return all (operation, input), node by node."""
        return [(edge.operation, edge.input) for edges in self.nodes for edge in edges]

    @property
    def skips(self) -> int:
        """Return how many edges are skip-connections."""
        return sum(operation == SKIP for operation, _ in self.pairs)

    @property
    def unused(self) -> tuple[int, ...]:
        """Return the inner nodes that no edge reads: what ENAS joins."""
        read = {source for _, source in self.pairs}
        return tuple(node for node in range(INPUTS, INPUTS + len(self.nodes)) if node not in read)

    def joining_unused(self) -> "Cell":
        """Return the same cell with its unused nodes joined."""
        return replace(self, concat=self.unused)


@dataclass(frozen=True)
class Genotype:
    """The two cells of a network on images: `normal` keeps the size, `reduce` halves it."""

    normal: Cell
    reduce: Cell

    def cell(self, *, reduction: bool) -> Cell:
        """Return the cell of one kind."""
        return self.reduce if reduction else self.normal

    def joining_unused(self) -> "Genotype":
        """Return the same cells with their unused nodes joined."""
        return Genotype(self.normal.joining_unused(), self.reduce.joining_unused())


def all_edges(nodes: int) -> list[tuple[int, int]]:
    """Return (node, input) of the full graph of `nodes` inner nodes, in DARTS's order: its alphas have one row each."""
    return [(node, source) for node in range(INPUTS, INPUTS + nodes) for source in range(node)]


def edges_of_node(edges: Sequence[tuple[int, int]], node: int) -> list[int]:
    """Return the rows of `all_edges` that end at a node."""
    return [row for row, (end, _) in enumerate(edges) if end == node]


def nodes_of_rows(rows: int) -> int:
    """Return how many inner nodes have so many edges together."""
    nodes = 0
    while len(all_edges(nodes)) < rows:
        nodes += 1
    assert len(all_edges(nodes)) == rows
    return nodes
