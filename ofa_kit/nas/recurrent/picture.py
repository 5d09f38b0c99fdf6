"""Pictures of recurrent cells: nodes from left to right by how many steps lie before them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_kit import storage
from ofa_kit.errors import OfaKitError
from ofa_kit.nas.cells.pictures import EDGE, INK, NODE_FILL
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"tanh": "#cfe3f7", "relu": "#f7dcc9", "sigmoid": "#dcefd3", "identity": "#eceef1"}
THICK: Mapping[str, Any] = {"color": INK, "lw": 1.1}
THIN: Mapping[str, Any] = {"color": EDGE, "lw": 0.7}
FORMATS = (".png", ".svg", ".pdf")
SPACE, HALF = 1.9, 0.68
"""Width of a column, and how far the sides of a node are from its middle."""
MARGIN = 0.4
LINE_INCHES = 0.75


def draw(genotype: RecurrentGenotype, path: Path) -> None:
    """Write a picture of the cell, .png, .svg or .pdf; an OfaKitError when matplotlib is missing."""
    places = [(SPACE * (1 + column), row) for column, row in node_places(genotype)]
    with saved_figure(path) as axes:
        _draw_cell(axes, genotype, places)


@contextmanager
def saved_figure(path: Path, *, column_inches: float = 1.0) -> "Iterator[Axes]":
    """Give axes whose columns are so wide, and write them to a file at the end, as large as what was drawn."""
    if path.suffix not in FORMATS:
        raise OfaKitError(f"a picture ends in {', '.join(FORMATS)}, found '{path}'")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OfaKitError("pictures need matplotlib; run `pip install 'ofa-kit[report]'`") from error
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    yield axes
    axes.set_axis_off()
    drawn = axes.dataLim.padded(MARGIN)
    axes.set(xlim=drawn.intervalx, ylim=drawn.intervaly)
    figure.set_size_inches(column_inches * drawn.width / SPACE, LINE_INCHES * drawn.height)
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


def _draw_cell(axes: "Axes", genotype: RecurrentGenotype, places: list[tuple[float, float]]) -> None:
    inputs = {"$x_t$": (0.0, 0.5), "$h_{t-1}$": (0.0, -0.5)}
    for text, place in inputs.items():
        arrow(axes, place, places[0])
        box(axes, place, text, NODE_FILL)
    for node, (_, source) in enumerate(genotype.nodes, start=1):
        arrow(axes, places[source], places[node])
    end = (max(x for x, _ in places) + SPACE, min(-0.5, *(y for _, y in places)) - 1)
    for node in genotype.concat:
        arrow_below(axes, places[node], end)
    box(axes, places[0], f"0  {genotype.first}", COLORS[genotype.first])
    for node, (function, _) in enumerate(genotype.nodes, start=1):
        box(axes, places[node], f"{node}  {function}", COLORS[function])
    box(axes, end, "$h_t$ = mean", NODE_FILL)


def arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float], *, thin: bool = False) -> None:
    """Draw an arrow from the right side of a box to the left side of another."""
    style = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **(THIN if thin else THICK)}
    axes.annotate("", (end[0] - HALF, end[1]), (start[0] + HALF, start[1]), arrowprops=style, zorder=1)


def arrow_below(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a thin arrow down the gap beside a box and on in the row of the box at its end, where no other stands."""
    gap, out = start[0] + SPACE / 2, start[1] - 0.12
    axes.plot([start[0] + HALF, gap, gap], [out, out, end[1]], zorder=1, **THIN)
    arrow(axes, (gap - HALF, end[1]), end, thin=True)


def box(axes: "Axes", place: tuple[float, float], text: str, color: str) -> None:
    """Draw a box around a text."""
    from matplotlib.patches import FancyBboxPatch

    x, y = place
    shape = FancyBboxPatch((x - 0.6, y - 0.25), 1.2, 0.5, boxstyle="round,pad=0.05", fc=color, ec=INK, lw=0.9, zorder=2)
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, zorder=3)
