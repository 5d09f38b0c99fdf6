"""RecurrentGenotype: which earlier node each node of a recurrent cell reads, and through which function."""

from collections.abc import Iterable
from dataclasses import dataclass

from ofa_kit.errors import UnknownNameError, WeightsError
from ofa_kit.nas.cells.text import call_arguments, nodes_of, pairs_of, written_nodes

NONE = "none"
OPERATIONS = (NONE, "tanh", "relu", "sigmoid", "identity")
"""The operations of a DARTS search, in its order."""
FUNCTIONS = OPERATIONS[1:]
FIRST = "tanh"
FIELDS = ("recurrent", "concat")
EXAMPLE = "Genotype(recurrent=[('tanh', 0), ('relu', 1)], concat=range(1, 3))"


@dataclass(frozen=True)
class RecurrentGenotype:
    """Node 0 joins the input and the state before; each later node reads one earlier node; the output is a mean."""

    nodes: tuple[tuple[str, int], ...]
    """(function, node that is read) of node 1, 2, ..."""
    concat: tuple[int, ...]
    """Nodes whose mean is the output and the next state."""
    first: str = FIRST
    """Function of node 0, which ENAS chooses too."""

    def __post_init__(self) -> None:
        if not self.nodes:
            raise WeightsError("a recurrent cell needs at least one (function, node) pair")
        for function in (self.first, *(function for function, _ in self.nodes)):
            if function not in FUNCTIONS:
                raise UnknownNameError("function of a recurrent cell", function, FUNCTIONS)
        for number, (_, source) in enumerate(self.nodes, start=1):
            if not 0 <= source < number:
                raise WeightsError(
                    f"node {number} of a recurrent cell reads node {source}; it can read 0 to {number - 1}"
                )
        odd = [node for node in self.concat if not 0 <= node <= len(self.nodes)]
        if odd or not self.concat or len(set(self.concat)) < len(self.concat):
            raise WeightsError(
                f"a recurrent cell averages nodes {list(self.concat)}; give different ones of 0 to {len(self.nodes)}"
            )

    @classmethod
    def of_all(cls, nodes: Iterable[tuple[str, int]]) -> "RecurrentGenotype":
        """Return the cell whose output is the mean of all nodes but node 0, as in DARTS."""
        nodes = tuple(nodes)
        return cls(nodes, tuple(range(1, len(nodes) + 1)))

    @classmethod
    def of_loose(cls, nodes: Iterable[tuple[str, int]], first: str = FIRST) -> "RecurrentGenotype":
        """Return the cell whose output is the mean of the nodes that none reads, as in ENAS."""
        nodes = tuple(nodes)
        read = {source for _, source in nodes}
        return cls(nodes, tuple(node for node in range(1, len(nodes) + 1) if node not in read), first)


# The published cells of Liu et al. 2019; that of ENAS (Pham et al. 2018) as these authors rebuilt it: its own first
# node is the tanh that every cell starts with here.
PRESETS = {
    "darts-v1": RecurrentGenotype.of_all(
        [("relu", 0), ("relu", 1), ("tanh", 2), ("relu", 3), ("relu", 4), ("identity", 1), ("relu", 5), ("relu", 1)]
    ),
    "darts-v2": RecurrentGenotype.of_all(
        [
            ("sigmoid", 0),
            ("relu", 1),
            ("relu", 1),
            ("identity", 1),
            ("tanh", 2),
            ("sigmoid", 5),
            ("tanh", 3),
            ("relu", 5),
        ]
    ),
    "enas": RecurrentGenotype.of_loose(
        [
            ("tanh", 0),
            ("tanh", 1),
            ("relu", 1),
            ("tanh", 3),
            ("tanh", 3),
            ("relu", 3),
            ("relu", 4),
            ("relu", 7),
            ("relu", 8),
            ("relu", 8),
            ("relu", 8),
        ]
    ),
}


def read_genotype(text: str) -> RecurrentGenotype:
    """Return the cell in a text such as `Genotype(recurrent=[...], concat=range(1, 9))`; nothing in it is executed.

    A WeightsError says what is no genotype.
    """
    try:
        values = call_arguments(text, FIELDS, ("first",))
    except WeightsError as error:
        reason = str(error).partition("; give ")[0]
        raise WeightsError(f"{reason}; give one such as {EXAMPLE}") from error
    nodes, concat = tuple(pairs_of(values["recurrent"])), tuple(nodes_of(values["concat"]))
    return RecurrentGenotype(nodes, concat, str(values.get("first", FIRST)))


def write_genotype(genotype: RecurrentGenotype) -> str:
    """Return the text form; a row of neighbouring nodes is written as a range, a first node with tanh not at all."""
    first = "" if genotype.first == FIRST else f", first={genotype.first!r}"
    return f"Genotype(recurrent={list(genotype.nodes)}, concat={written_nodes(genotype.concat)}{first})"
