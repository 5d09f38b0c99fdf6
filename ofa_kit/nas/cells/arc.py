"""The text form of ENAS's micro search: `i1 o1 i2 o2` for each node, the normal cell first, as its `fixed_arc` has it.

Numpy's brackets, commas and line breaks may stand between the numbers. What a cell joins is not written: always the
inner nodes that no edge reads. (The authors' code would also join an input of the cell that nothing reads.)
"""

import re

from ofa_kit.errors import WeightsError
from ofa_kit.nas.cells.genotype import INPUTS, Cell, Edge, Genotype

MICRO_OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
"""The operations of ENAS's micro search, by number."""
EDGES, NUMBERS = 2, 4
"""Of each node."""
ONLY_NUMBERS = re.compile(r"[\s\d\[\],-]+")


def is_arc(text: str) -> bool:
    """Return whether a text holds nothing but several integers."""
    return bool(ONLY_NUMBERS.fullmatch(text)) and len(_integers(text)) > 1


def read_arc(text: str) -> Genotype:
    """Return the genotype of 2 x 4B integers; a WeightsError says what is wrong with them."""
    if not is_arc(text):
        raise WeightsError(f"'{_shown(text)}' is no arc of ENAS: give integers 'i1 o1 i2 o2' for each node")
    numbers = _integers(text)
    if len(numbers) % (2 * NUMBERS):
        raise WeightsError(
            f"an arc of ENAS has {NUMBERS} integers for each node of two equal cells, found {len(numbers)}: "
            f"'{_shown(text)}'; give a multiple of {2 * NUMBERS}"
        )
    half = len(numbers) // 2
    return Genotype(_cell(numbers[:half], "normal"), _cell(numbers[half:], "reduction"))


def write_arc(genotype: Genotype) -> str:
    """Return the integers with spaces between them; a WeightsError where ENAS has no such cells."""
    nodes = len(genotype.normal.nodes)
    if len(genotype.reduce.nodes) != nodes:
        raise WeightsError("an arc of ENAS has as many nodes in both cells; these differ")
    numbers = [number for cell in (genotype.normal, genotype.reduce) for number in _numbers(cell)]
    return " ".join(map(str, numbers))


def micro_cell(edges: list[tuple[int, int]]) -> Cell:
    """Return the cell of (input, number of the operation) pairs, two for each node; it joins its unused nodes."""
    pairs = [Edge(MICRO_OPERATIONS[operation], source) for source, operation in edges]
    nodes = tuple(tuple(pairs[start : start + EDGES]) for start in range(0, len(pairs), EDGES))
    return Cell(nodes, (INPUTS + len(nodes) - 1,)).joining_unused()


def _cell(numbers: list[int], name: str) -> Cell:
    edges = list(zip(numbers[::2], numbers[1::2], strict=True))
    for place, (_, operation) in enumerate(edges):
        if not 0 <= operation < len(MICRO_OPERATIONS):
            known = ", ".join(f"{number} {name}" for number, name in enumerate(MICRO_OPERATIONS))
            raise WeightsError(
                f"node {INPUTS + place // EDGES} of the {name} cell has operation {operation}; ENAS knows {known}"
            )
    return micro_cell(edges)


def _numbers(cell: Cell) -> list[int]:
    odd = sorted({operation for operation, _ in cell.pairs} - set(MICRO_OPERATIONS))
    if odd or any(len(edges) != EDGES for edges in cell.nodes) or set(cell.concat) != set(cell.unused):
        found = f"operations {', '.join(odd)}" if odd else "other edges or another concatenation"
        raise WeightsError(
            f"an arc of ENAS holds cells of {', '.join(MICRO_OPERATIONS)} with two edges a node that join their unused "
            f"nodes; this one has {found}"
        )
    return [number for name, source in cell.pairs for number in (source, MICRO_OPERATIONS.index(name))]


def _integers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text)]


def _shown(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
