"""How a report draws: matplotlib figures as SVG text whose colours and font are the page's, light or dark."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ofa_kit.errors import OfaKitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#1b1f24", "#5c6470", "#dfe3e8", "#fffffe"
MEASURED, PREDICTED = "#1f5fa8", "#c4572b"
COLORS = {
    "ink": (INK, "#e8eaed"),
    "muted": (MUTED, "#a3abb5"),
    "grid": (GRID, "#363c44"),
    "surface": (SURFACE, "#16191d"),
    "measured": (MEASURED, "#7db4f5"),
    "predicted": (PREDICTED, "#f0936b"),
}
"""Each colour on light and on dark paper, by its CSS variable."""
LOG_ABOVE = 15
"""Largest by smallest value from which an axis is logarithmic."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
}


@dataclass
class Drawing:
    """A figure to draw in, and its SVG text once the drawing is finished."""

    figure: "Figure"
    svg: str = ""


def require_matplotlib() -> None:
    """Raise an OfaKitError when matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise OfaKitError("a report needs the package matplotlib; install `ofa-kit[report]`")


@contextmanager
def drawing(name: str, width: float, height: float) -> Iterator[Drawing]:
    """Give a figure of some inches; when the block ends, its `svg` is there. `name` keeps ids apart on one page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        made = Drawing(Figure(figsize=(width, height), layout="constrained"))
        yield made
        text = io.StringIO()
        made.figure.savefig(text, format="svg", metadata={"Date": None})
    made.svg = _for_page(text.getvalue(), name)


def scale(axes: "Axes", low: float, high: float, which: str) -> None:
    """Make positive axes (`x`, `y` or `both`) logarithmic where their values span more than a linear one shows."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    if low <= 0 or high / low < LOG_ABOVE:
        return
    for letter, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if which in (letter, "both"):
            axes.set(**{f"{letter}scale": "log"})
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())


def _for_page(svg: str, name: str) -> str:
    """Return the bare svg element: colours and font as CSS variables, ids only where something refers to them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font: \1 var(--font)", svg)
    for variable, (light, _) in COLORS.items():
        svg = svg.replace(light, f"var(--{variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
