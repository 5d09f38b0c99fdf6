"""Cells as pictures: nodes from left to right, an arrow for each operation."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_kit import storage
from ofa_kit.nas.cells.genotype import INPUTS, Cell, Genotype

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, EDGE, INPUT_FILL, NODE_FILL, OUTPUT_FILL = "#1b1f24", "#5c6470", "#d5e5f7", "#fffffe", "#dff0e2"
WIDTH_OF_NODE, ROW_HEIGHT = 1.9, 0.95
FORMATS = ("svg", "png")
BENDS = (0.12, -0.12, 0.25, -0.25)
ENOUGH = 0.5
"""Distance at which an arrow or a word is clear of another, in rows."""
Place = tuple[float, float]


def save_pictures(genotype: Genotype, folder: Path) -> list[Path]:
    """Write normal.svg, normal.png, reduce.svg and reduce.png; needs matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    written = []
    for name, cell in (("normal", genotype.normal), ("reduce", genotype.reduce)):
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "text.color": INK}):
            figure = Figure(figsize=_size(cell), layout="constrained")
            draw_cell(figure.add_subplot(), cell, name)
            for kind in FORMATS:
                path = folder / f"{name}.{kind}"
                with storage.replacing(path) as temporary:
                    metadata = {"Date": None} if kind == "svg" else {}
                    figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
                written.append(path)
    return written


def draw_cell(axes: "Axes", cell: Cell, title: str) -> None:
    """Draw a cell: inputs at the left, its nodes in order, what is joined at the right."""
    places = _places(cell)
    labels = {0: "cell\nk-2", 1: "cell\nk-1", **{node: str(node) for node in places if node >= INPUTS}}
    output = max(places)
    labels[output] = "join"
    taken = list(places.values())
    for node, edges in enumerate(cell.nodes, start=INPUTS):
        for edge in edges:
            _arrow(axes, places[edge.input], places[node], edge.operation, taken)
    for node in cell.concat:
        _arrow(axes, places[node], places[output], "", taken)
    for node, (x, y) in places.items():
        fill = INPUT_FILL if node < INPUTS else OUTPUT_FILL if node == output else NODE_FILL
        box = {"boxstyle": "round,pad=0.45", "facecolor": fill, "edgecolor": EDGE}
        axes.text(x, y, labels[node], ha="center", va="center", bbox=box, zorder=3)
    axes.set(title=title, xlim=(-0.6, places[output][0] + 0.6), ylim=(-0.7, len(cell.nodes) + 0.2))
    axes.axis("off")


def _places(cell: Cell) -> dict[int, Place]:
    """Return where nodes stand: each right of what it reads, in a row of its own."""
    count = len(cell.nodes)
    column = {0: 0, 1: 0}
    for node, edges in enumerate(cell.nodes, start=INPUTS):
        column[node] = 1 + max(column[edge.input] for edge in edges)
    places: dict[int, Place] = {node: (2.0 * column[node], float(INPUTS + count - 1 - node)) for node in column}
    places[0] = (0.0, count * 0.75)
    places[1] = (0.0, max(0.0, count * 0.25 - 0.5))
    places[INPUTS + count] = (2.0 * (1 + max(column.values())), (count - 1) / 2)
    return places


def _size(cell: Cell) -> tuple[float, float]:
    columns = max(x for x, _ in _places(cell).values()) / 2
    return 1.0 + WIDTH_OF_NODE * columns, 0.8 + ROW_HEIGHT * (len(cell.nodes) + 0.5)


def _arrow(axes: "Axes", start: Place, end: Place, label: str, taken: list[Place]) -> None:
    """Draw an arrow that keeps clear of `taken` places, and its label, whose place is then taken too."""
    others = [place for place in taken if place not in (start, end)]
    curves = {bend: _curve(start, end, bend) for bend in (BENDS if label else (0.0,))}
    bend = max(curves, key=lambda one: _room(curves[one], others))
    style = {"arrowstyle": "-|>", "color": EDGE, "shrinkA": 16, "shrinkB": 16, "lw": 1.0, "ls": "-" if label else ":"}
    style["connectionstyle"] = f"arc3,rad={bend}"
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=1)
    if label:
        x, y = max(curves[bend][3:-3], key=lambda place: _room([place], taken))
        taken.append((x, y))
        box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        axes.text(x, y, label, ha="center", va="center", fontsize=7.5, bbox=box, zorder=2)


def _curve(start: Place, end: Place, bend: float) -> list[Place]:
    """Return points along matplotlib's arc3."""
    (x0, y0), (x1, y1) = start, end
    xm, ym = (x0 + x1) / 2 + bend * (y1 - y0), (y0 + y1) / 2 - bend * (x1 - x0)
    weights = [((1 - t) ** 2, 2 * t * (1 - t), t**2) for t in (number / 12 for number in range(1, 12))]
    return [(a * x0 + m * xm + z * x1, a * y0 + m * ym + z * y1) for a, m, z in weights]


def _room(points: Sequence[Place], others: Sequence[Place]) -> float:
    """Return the distance of the nearest other, at most ENOUGH; words are wide, so distance across counts for less."""
    return min([ENOUGH, *(math.hypot((x - u) / 2, y - v) for x, y in points for u, v in others)])
