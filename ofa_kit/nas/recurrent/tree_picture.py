"""Pictures of recurrent trees: leaves on the left, the root on the right, the memory's way in above and out below."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_kit.nas.cells.pictures import EDGE, NODE_FILL
from ofa_kit.nas.recurrent.picture import COLORS, HALF, SPACE, arrow, box, saved_figure
from ofa_kit.nas.recurrent.tree import Label, TreeGenotype

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Place = tuple[float, float]

WIDE = 1.4
"""Inches of a column: labels are longer than those of other cells."""
LANE = 0.87
"""How far from the middle of a box the memory's lines between columns are."""
SIGNS = {"add": "+", "multiply": r"$\times$"}


def draw_tree(genotype: TreeGenotype, path: Path) -> None:
    """Write a picture of the tree, .png, .svg or .pdf; an OfaKitError when matplotlib is missing."""
    places = [(SPACE * (1 + column), row) for column, row in tree_places(genotype)]
    end = places[-1][0] + SPACE
    with saved_figure(path, column_inches=WIDE) as axes:
        for node in range(genotype.base, len(genotype.nodes)):
            for read in genotype.read_by(node):
                arrow(axes, places[read], places[node])
        inputs = {leaf: (0.0, places[leaf][1]) for leaf in range(genotype.base)}
        for leaf, place in inputs.items():
            arrow(axes, place, places[leaf])
            box(axes, place, "$x_t$, $h_{t-1}$", NODE_FILL)
        top, bottom = 1.0, float(-genotype.base)  # rows of no node: what runs along them crosses none
        memory, kept = (0.0, top), (end, bottom)
        _route(axes, [memory, *_beside(places[genotype.memory_into], top, -1)])
        _route(axes, [*_beside(places[genotype.memory_from], bottom, 1)[::-1], (end - HALF, bottom)])
        arrow(axes, places[-1], (end, places[-1][1]))
        box(axes, memory, f"$c_{{t-1}}$  {_said(genotype.inject)}", COLORS[genotype.inject[1]])
        box(axes, kept, f"$c_t$ = {_kept(genotype)}", NODE_FILL)
        box(axes, (end, places[-1][1]), "$h_t$", NODE_FILL)
        for node, label in enumerate(genotype.nodes):
            box(axes, places[node], f"{node}  {_said(label)}", COLORS[label[1]])


def tree_places(genotype: TreeGenotype) -> list[tuple[int, float]]:
    """Return column and height of each node: a node stands right of the two that it joins, between them."""
    places: list[tuple[int, float]] = [(0, float(-leaf)) for leaf in range(genotype.base)]
    for node in range(genotype.base, len(genotype.nodes)):
        left, right = (places[read] for read in genotype.read_by(node))
        places.append((max(left[0], right[0]) + 1, (left[1] + right[1]) / 2))
    return places


def _beside(node: Place, row: float, side: int) -> list[Place]:
    """Return the way from a row without nodes, between columns, to the left (-1) or right (1) side of a node."""
    x, y = node[0], node[1] + math.copysign(0.2, row - node[1])
    return [(x + side * LANE, row), (x + side * LANE, y), (x + side * HALF, y)]


def _route(axes: "Axes", places: Sequence[Place]) -> None:
    """Draw a dotted line through places, with an arrow at its end."""
    axes.plot(*zip(*places, strict=True), color=EDGE, linestyle=":", lw=1.0, zorder=1)
    head = {"arrowstyle": "-|>", "color": EDGE, "shrinkA": 0, "shrinkB": 0, "lw": 0, "mutation_scale": 10}
    axes.annotate("", places[-1], places[-2], arrowprops=head, zorder=1)


def _said(label: Label) -> str:
    return f"{SIGNS[label[0]]} {label[1]}"


def _kept(genotype: TreeGenotype) -> str:
    """Return what the memory after is."""
    joined = "sum" if genotype.nodes[genotype.memory_from][0] == "add" else "product"
    return f"{joined}\nin {genotype.memory_from}"
