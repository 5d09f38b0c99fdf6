"""Pictures of recurrent cells: nodes from left to right by how many steps lie before them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_kit import storage
from ofa_kit.errors import OfaKitError
from ofa_kit.nas.cells.pictures import EDGE, INK, NODE_FILL
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"tanh": "#cfe3f7", "relu": "#f7dcc9", "sigmoid": "#dcefd3", "identity": "#eceef1"}
FORMATS = (".png", ".svg", ".pdf")
SPACE = 1.9
"""Width of a column, where a node is 1.3 wide."""


def draw(genotype: RecurrentGenotype, path: Path) -> None:
    """Write a picture of the cell, .png, .svg or .pdf; an OfaKitError when matplotlib is missing."""
    places = node_places(genotype)
    columns = 3 + max(column for column, _ in places)
    lines = max(sum(column == c for column, _ in places) for c in range(columns))
    with saved_figure(path, columns=columns, lines=lines) as axes:
        _draw_cell(axes, genotype, [(SPACE * (1 + column), row) for column, row in places], SPACE * (columns - 1))


@contextmanager
def saved_figure(path: Path, *, columns: int, lines: int) -> "Iterator[Axes]":
    """Give axes for so many columns and lines of boxes, and write them to a file at the end."""
    if path.suffix not in FORMATS:
        raise OfaKitError(f"a picture ends in {', '.join(FORMATS)}, found '{path}'")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OfaKitError("pictures need matplotlib; run `pip install 'ofa-kit[report]'`") from error
    figure = Figure(figsize=(1.0 * columns + 0.6, 0.75 * max(2, lines) + 0.4))
    axes = figure.add_axes((0, 0, 1, 1))
    yield axes
    axes.set_axis_off()
    axes.margins(0.08, 0.15)
    with storage.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=160)


def node_places(genotype: RecurrentGenotype) -> list[tuple[int, float]]:
    """Return column and height of node 0, 1, ...: columns count the nodes before it, heights keep them apart."""
    columns = [0]
    for _, source in genotype.nodes:
        columns.append(columns[source] + 1)
    places = []
    for node, column in enumerate(columns):
        beside = [other for other, found in enumerate(columns) if found == column]
        places.append((column, (len(beside) - 1) / 2 - beside.index(node)))
    return places


def _draw_cell(axes: "Axes", genotype: RecurrentGenotype, places: list[tuple[float, float]], end: float) -> None:
    inputs = {"$x_t$": (0.0, 0.5), "$h_{t-1}$": (0.0, -0.5)}
    for text, place in inputs.items():
        arrow(axes, place, places[0], INK)
        box(axes, place, text, NODE_FILL)
    for node, (_, source) in enumerate(genotype.nodes, start=1):
        arrow(axes, places[source], places[node], INK)
    for node in genotype.concat:
        arrow(axes, places[node], (end, 0.0), EDGE, dotted=True)
    box(axes, places[0], f"0  {genotype.first}", COLORS[genotype.first])
    for node, (function, _) in enumerate(genotype.nodes, start=1):
        box(axes, places[node], f"{node}  {function}", COLORS[function])
    box(axes, (end, 0.0), f"$h_t$ = mean of\n{_listed(genotype.concat)}", NODE_FILL)


def _listed(nodes: tuple[int, ...]) -> str:
    """Return node numbers, neighbours in order as a range."""
    if len(nodes) > 2 and nodes == tuple(range(nodes[0], nodes[-1] + 1)):
        return f"{nodes[0]} to {nodes[-1]}"
    return ", ".join(map(str, nodes))


def arrow(
    axes: "Axes", start: tuple[float, float], end: tuple[float, float], color: str, *, dotted: bool = False
) -> None:
    """Draw an arrow from the right side of a box to the left side of another."""
    style = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0, "lw": 0.7 if dotted else 1.1}
    style |= {"linestyle": ":" if dotted else "-"}
    axes.annotate("", (end[0] - 0.68, end[1]), (start[0] + 0.68, start[1]), arrowprops=style, zorder=1)


def box(axes: "Axes", place: tuple[float, float], text: str, color: str) -> None:
    """Draw a box around a text."""
    from matplotlib.patches import FancyBboxPatch

    x, y = place
    shape = FancyBboxPatch((x - 0.6, y - 0.25), 1.2, 0.5, boxstyle="round,pad=0.05", fc=color, ec=INK, lw=0.9, zorder=2)
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, zorder=3)
