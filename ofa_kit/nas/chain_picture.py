"""Networks that are a chain of layers, as pictures: boxes from top to bottom, longer connections beside them.

A box that is read further down has one line that runs beside the chain in a lane of its own, with a branch to each
reader: so a hundred connections stay apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_kit import storage
from ofa_kit.nas.cells.pictures import EDGE, FORMATS, INK, INPUT_FILL, NODE_FILL, OUTPUT_FILL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF = 0.28
"""Half the height of a box, where rows are 1 apart."""
WIDE = 1.1
"""Half the width of a box."""
FIRST_LANE, LANE = 0.3, 0.16
"""Distance of the first lane from the boxes, and of lanes from each other."""
INCHES = (0.85, 0.62)
"""Of a unit across and down."""
COLORS = (EDGE, "#2f6fa8", "#b0562c", "#43803a", "#7a5195")
"""Of lines, by lane."""
LEAVES, ENTERS = 0.6, (0.75, -0.45)
"""Where a line leaves a box below its middle, and between which heights others enter it, in halves of its height."""


@dataclass(frozen=True)
class Box:
    """A layer: what is written in it and which earlier boxes it reads."""

    label: str
    reads: Sequence[int] = ()
    fill: str = NODE_FILL


@dataclass(frozen=True)
class Line:
    """What runs from a box past others to those that read it."""

    source: int
    targets: tuple[int, ...]
    side: int
    """1 = right, -1 = left."""
    lane: int
    """From 0, which is next to the boxes."""

    @property
    def color(self) -> str:
        return COLORS[self.lane % len(COLORS)]

    @property
    def x(self) -> float:
        return self.side * (WIDE + FIRST_LANE + LANE * self.lane)


def save_chain(boxes: Sequence[Box], folder: Path, name: str) -> list[Path]:
    """Write NAME.svg and NAME.png; needs matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    written = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "text.color": INK}):
        reach = reach_of(lines_of(boxes))
        figure = Figure(figsize=(2 * reach * INCHES[0], 1.0 + INCHES[1] * (len(boxes) - 1)), layout="constrained")
        draw_chain(figure.add_subplot(), boxes)
        for kind in FORMATS:
            path = folder / f"{name}.{kind}"
            with storage.replacing(path) as temporary:
                metadata = {"Date": None} if kind == "svg" else {}
                figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
            written.append(path)
    return written


def lines_of(boxes: Sequence[Box]) -> list[Line]:
    """Return a line for each box that others than the next one read; none of them runs over another.

    Short ones lie next to the boxes, those of boxes with odd numbers at the right.
    """
    far = {
        source: tuple(target for target, box in enumerate(boxes) if source in box.reads and target > source + 1)
        for source in range(len(boxes))
    }
    found: list[Line] = []
    for source, targets in sorted(far.items(), key=lambda item: max(item[1], default=0) - item[0]):
        if targets:
            side = 1 if source % 2 else -1
            taken = {line.lane for line in found if line.side == side and _meet(line, source, targets)}
            found.append(Line(source, targets, side, min(set(range(len(found) + 1)) - taken)))
    return found


def reach_of(lines: Sequence[Line]) -> float:
    """Return how far a picture with these lines reaches to each side."""
    return max((abs(line.x) for line in lines), default=WIDE) + 2 * LANE


def draw_chain(axes: "Axes", boxes: Sequence[Box]) -> None:
    """Draw boxes in order, arrows between neighbours, and lines past others."""
    from matplotlib.patches import FancyBboxPatch

    last = len(boxes) - 1
    lines = lines_of(boxes)
    for number, box in enumerate(boxes):
        if number - 1 in box.reads:
            _arrow(axes, (0, 1 - number - HALF), (0, HALF - number), EDGE)
        fill = INPUT_FILL if number == 0 else OUTPUT_FILL if number == last else box.fill
        style = "round,pad=0,rounding_size=0.12"
        corner = (-WIDE, -number - HALF)
        axes.add_patch(FancyBboxPatch(corner, 2 * WIDE, 2 * HALF, boxstyle=style, fc=fill, ec=EDGE, zorder=2))
        axes.text(0, -number, box.label, ha="center", va="center", zorder=3)
    for line in lines:
        _draw_line(axes, line, lines)
    reach = reach_of(lines)
    axes.set(xlim=(-reach, reach), ylim=(-last - 0.5, 0.5))
    axes.axis("off")


def _draw_line(axes: "Axes", line: Line, lines: Sequence[Line]) -> None:
    start, edge = -line.source - LEAVES * HALF, line.side * WIDE
    ends = {target: _height(line, target, lines) for target in line.targets}
    axes.plot([edge, line.x, line.x], [start, start, min(ends.values())], color=line.color, lw=1.0, zorder=1)
    for target, y in ends.items():
        _arrow(axes, (line.x, y), (edge, y), line.color)
        if target != max(line.targets):
            axes.plot(line.x, y, "o", ms=2.5, color=line.color, zorder=1)


def _height(line: Line, target: int, lines: Sequence[Line]) -> float:
    """Return where a line enters a box: inner lanes above outer ones, so that a line that ends crosses none."""
    beside = sorted(other.lane for other in lines if other.side == line.side and target in other.targets)
    top, bottom = ENTERS
    return -target + HALF * (top + (bottom - top) * (beside.index(line.lane) + 0.5) / len(beside))


def _meet(line: Line, source: int, targets: tuple[int, ...]) -> bool:
    """Return whether a line runs beside some of what another one would; one may begin where the other ends."""
    return line.source < max(targets) and source < max(line.targets)


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.0, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=1)
