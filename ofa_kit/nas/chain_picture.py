"""Networks that are a chain of layers, as pictures: boxes from top to bottom, longer connections beside them."""

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


@dataclass(frozen=True)
class Box:
    """A layer: what is written in it and which earlier boxes it reads."""

    label: str
    reads: Sequence[int] = ()
    fill: str = NODE_FILL


def save_chain(boxes: Sequence[Box], folder: Path, name: str) -> list[Path]:
    """Write NAME.svg and NAME.png; needs matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    written = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "text.color": INK}):
        figure = Figure(figsize=(4.6, 1.0 + 0.62 * (len(boxes) - 1)), layout="constrained")
        draw_chain(figure.add_subplot(), boxes)
        for kind in FORMATS:
            path = folder / f"{name}.{kind}"
            with storage.replacing(path) as temporary:
                metadata = {"Date": None} if kind == "svg" else {}
                figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
            written.append(path)
    return written


def draw_chain(axes: "Axes", boxes: Sequence[Box]) -> None:
    """Draw boxes in order, straight arrows between neighbours and curved ones past others."""
    from matplotlib.patches import FancyBboxPatch

    last = len(boxes) - 1
    for number, box in enumerate(boxes):
        for source in box.reads:
            _arrow(axes, source, number)
        fill = INPUT_FILL if number == 0 else OUTPUT_FILL if number == last else box.fill
        style = "round,pad=0,rounding_size=0.12"
        corner = (-WIDE, -number - HALF)
        axes.add_patch(FancyBboxPatch(corner, 2 * WIDE, 2 * HALF, boxstyle=style, fc=fill, ec=EDGE, zorder=2))
        axes.text(0, -number, box.label, ha="center", va="center", zorder=3)
    axes.set(xlim=(-2.7, 2.7), ylim=(-last - 0.5, 0.5))
    axes.axis("off")


def _arrow(axes: "Axes", source: int, target: int) -> None:
    """Draw an arrow; the further it reaches, the further out it bends, at the right and left in turn."""
    reach = target - source
    style = {"arrowstyle": "-|>", "color": EDGE, "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
    if reach == 1:
        axes.annotate("", xy=(0, HALF - target), xytext=(0, -HALF - source), arrowprops=style, zorder=1)
        return
    side = 1 if source % 2 else -1
    style["connectionstyle"] = f"arc3,rad={-side * 0.65 / reach**0.5}"
    start, end = (side * WIDE, -source - HALF / 2), (side * WIDE, -target + HALF / 2)
    axes.annotate("", xytext=start, xy=end, arrowprops=style, zorder=1)
