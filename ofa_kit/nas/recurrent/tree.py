"""TreeGenotype: the recurrent cell of NAS-RL, a binary tree of combinations and activations (Zoph & Le 2017, 3.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

from ofa_kit.errors import UnknownNameError, WeightsError
from ofa_kit.nas.cells.text import call_arguments, nodes_of

COMBINATIONS = ("add", "multiply")
ACTIVATIONS = ("identity", "tanh", "sigmoid", "relu")
FIELDS = ("tree", "inject", "index")
EXAMPLE = "Genotype(tree=[('add', 'tanh'), ('multiply', 'relu'), ('multiply', 'sigmoid')], inject=('add', 'relu'), "
EXAMPLE += "index=(1, 0))"
Label = tuple[str, str]
"""(combination, activation)."""


@dataclass(frozen=True)
class TreeGenotype:
    """Leaves join what comes from the input and from the state before; every other node joins two nodes; the last is h.

    With `base` leaves, node base + k joins nodes 2k and 2k + 1.
    """

    nodes: tuple[Label, ...]
    """Labels of nodes 0, 1, ...: first the leaves, last the root."""
    inject: Label
    """How the memory before joins the output of node `memory_into`."""
    memory_from: int
    """Node whose sum or product, before its activation, is the memory after (first element of the cell index)."""
    memory_into: int
    """Second element of the cell index."""

    def __post_init__(self) -> None:
        if len(self.nodes) % 2 == 0:
            raise WeightsError(f"a tree of B leaves has 2B - 1 nodes, found {len(self.nodes)}")
        for combination, activation in (*self.nodes, self.inject):
            if combination not in COMBINATIONS:
                raise UnknownNameError("combination of a recurrent tree", combination, COMBINATIONS)
            if activation not in ACTIVATIONS:
                raise UnknownNameError("activation of a recurrent tree", activation, ACTIVATIONS)
        for node in (self.memory_from, self.memory_into):
            if not 0 <= node < len(self.nodes):
                raise WeightsError(f"the cell index names node {node} of a tree of nodes 0 to {len(self.nodes) - 1}")

    @property
    def base(self) -> int:
        """Return the number of leaves."""
        return (len(self.nodes) + 1) // 2

    def read_by(self, node: int) -> tuple[int, int]:
        """Return the two nodes that an inner node joins."""
        first = 2 * (node - self.base)
        return first, first + 1


# The cell found by Zoph & Le 2017 on Penn Treebank, as its authors built it into TensorFlow ("NASCell").
PRESETS = {
    "nas-cell": TreeGenotype(
        (
            ("add", "sigmoid"),
            ("add", "relu"),
            ("add", "sigmoid"),
            ("multiply", "relu"),
            ("add", "tanh"),
            ("add", "sigmoid"),
            ("add", "tanh"),
            ("add", "sigmoid"),
            ("multiply", "tanh"),
            ("add", "tanh"),
            ("multiply", "tanh"),
            ("add", "sigmoid"),
            ("multiply", "identity"),
            ("add", "tanh"),
            ("multiply", "tanh"),
        ),
        inject=("add", "tanh"),
        memory_from=12,
        memory_into=8,
    )
}


def read_tree(text: str) -> TreeGenotype:
    """Return the tree in a text such as `Genotype(tree=[...], inject=(...), index=(12, 8))`; nothing is executed.

    A WeightsError says what is no tree.
    """
    try:
        values = call_arguments(text, FIELDS)
    except WeightsError as error:
        reason = str(error).partition("; give ")[0]
        raise WeightsError(f"{reason}; give one such as {EXAMPLE}") from error
    tree, index = values["tree"], nodes_of(values["index"])
    if not isinstance(tree, list | tuple) or len(index) != 2:
        raise WeightsError(f"a tree lists labels and has two nodes in its index; give one such as {EXAMPLE}")
    return TreeGenotype(tuple(map(_label, tree)), _label(values["inject"]), index[0], index[1])


def write_tree(genotype: TreeGenotype) -> str:
    """Return the text form."""
    index = (genotype.memory_from, genotype.memory_into)
    return f"Genotype(tree={list(genotype.nodes)}, inject={genotype.inject}, index={index})"


def tokens_of(genotype: TreeGenotype) -> list[int]:
    """Return a controller's tokens: combination and activation of each node, those of `inject`, and the cell index."""
    labels = [token for label in (*genotype.nodes, genotype.inject) for token in _numbers(label)]
    return [*labels, genotype.memory_from, genotype.memory_into]


def from_tokens(tokens: Sequence[int]) -> TreeGenotype:
    """Return the tree of a controller's tokens."""
    *numbers, memory_from, memory_into = tokens
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    *nodes, inject = [(COMBINATIONS[combination], ACTIVATIONS[activation]) for combination, activation in pairs]
    return TreeGenotype(tuple(nodes), inject, memory_from, memory_into)


def token_sizes(base: int) -> list[int]:
    """Return how many choices each token has."""
    return [len(COMBINATIONS), len(ACTIVATIONS)] * (2 * base) + [2 * base - 1] * 2


def _numbers(label: Label) -> tuple[int, int]:
    return COMBINATIONS.index(label[0]), ACTIVATIONS.index(label[1])


def _label(value: object) -> Label:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return value[0], value[1]
    raise WeightsError(f"a tree's label is (combination, activation), found {value!r}; give one such as {EXAMPLE}")
