"""Pictures of recurrent trees: leaves on the left, the root on the right, the memory from above and to below."""

from pathlib import Path

from ofa_kit.nas.cells.pictures import NODE_FILL
from ofa_kit.nas.recurrent.picture import COLORS, SPACE, arrow, arrow_below, box, saved_figure
from ofa_kit.nas.recurrent.tree import Label, TreeGenotype

WIDE = 1.4
"""Inches of a column: labels are longer than those of other cells."""
SIGNS = {"add": "+", "multiply": r"$\times$"}


def draw_tree(genotype: TreeGenotype, path: Path) -> None:
    """Write a picture of the tree, .png, .svg or .pdf; an OfaKitError when matplotlib is missing."""
    places = [(SPACE * (1 + column), row) for column, row in tree_places(genotype)]
    end = places[-1][0] + SPACE
    rows = [row for _, row in places]
    before, after = (places[genotype.memory_into][0] - SPACE, max(rows) + 1), (end, min(rows) - 1)
    with saved_figure(path, column_inches=WIDE) as axes:
        for node in range(genotype.base, len(genotype.nodes)):
            for read in genotype.read_by(node):
                arrow(axes, places[read], places[node])
        inputs = {leaf: (0.0, places[leaf][1]) for leaf in range(genotype.base)}
        for leaf, place in inputs.items():
            arrow(axes, place, places[leaf])
            box(axes, place, "$x_t$, $h_{t-1}$", NODE_FILL)
        arrow(axes, before, places[genotype.memory_into], thin=True)
        arrow_below(axes, places[genotype.memory_from], after)
        arrow(axes, places[-1], (end, rows[-1]))
        box(axes, before, f"$c_{{t-1}}$  {_said(genotype.inject)}", COLORS[genotype.inject[1]])
        box(axes, after, f"$c_t$ = {_kept(genotype)}", NODE_FILL)
        box(axes, (end, rows[-1]), "$h_t$", NODE_FILL)
        for node, label in enumerate(genotype.nodes):
            box(axes, places[node], f"{node}  {_said(label)}", COLORS[label[1]])


def tree_places(genotype: TreeGenotype) -> list[tuple[int, float]]:
    """Return column and height of each node: a node stands right of the two that it joins, between them."""
    places: list[tuple[int, float]] = [(0, float(-leaf)) for leaf in range(genotype.base)]
    for node in range(genotype.base, len(genotype.nodes)):
        left, right = (places[read] for read in genotype.read_by(node))
        places.append((max(left[0], right[0]) + 1, (left[1] + right[1]) / 2))
    return places


def _said(label: Label) -> str:
    return f"{SIGNS[label[0]]} {label[1]}"


def _kept(genotype: TreeGenotype) -> str:
    """Return what the memory after is."""
    joined = "sum" if genotype.nodes[genotype.memory_from][0] == "add" else "product"
    return f"{joined}\nin {genotype.memory_from}"
