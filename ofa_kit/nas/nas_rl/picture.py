"""A ConvNet as a picture: layers from the image at the top to the classifier at the bottom, skip connections beside."""

from pathlib import Path
from typing import TYPE_CHECKING

from ofa_kit import storage
from ofa_kit.nas.cells.pictures import EDGE, FORMATS, INK, INPUT_FILL, NODE_FILL, OUTPUT_FILL
from ofa_kit.nas.nas_rl.conv_net import IMAGE, ConvLayer, ConvNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF = 0.28
"""Half the height of a box, where rows are 1 apart."""
WIDE = 1.1
"""Half the width of a box."""


def save_picture(net: ConvNet, folder: Path, name: str = "network") -> list[Path]:
    """Write NAME.svg and NAME.png; needs matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    written = []
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "text.color": INK}):
        figure = Figure(figsize=(4.6, 1.0 + 0.62 * (len(net.layers) + 1)), layout="constrained")
        draw(figure.add_subplot(), net)
        for kind in FORMATS:
            path = folder / f"{name}.{kind}"
            with storage.replacing(path) as temporary:
                metadata = {"Date": None} if kind == "svg" else {}
                figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
            written.append(path)
    return written


def draw(axes: "Axes", net: ConvNet) -> None:
    """Draw boxes in order, straight arrows between neighbours and curved ones past others."""
    from matplotlib.patches import FancyBboxPatch

    last = len(net.layers) + 1
    labels = {IMAGE: "image", last: "join, mean, classifier"}
    labels |= {number: f"{number}   {_label(layer)}" for number, layer in enumerate(net.layers, start=1)}
    for number in range(1, last + 1):
        for source in net.sources(number) if number < last else net.unread:
            _arrow(axes, source, number)
    for number, label in labels.items():
        fill = INPUT_FILL if number == IMAGE else OUTPUT_FILL if number == last else NODE_FILL
        style = "round,pad=0,rounding_size=0.12"
        corner = (-WIDE, -number - HALF)
        axes.add_patch(FancyBboxPatch(corner, 2 * WIDE, 2 * HALF, boxstyle=style, fc=fill, ec=EDGE, zorder=2))
        axes.text(0, -number, label, ha="center", va="center", zorder=3)
    axes.set(xlim=(-2.7, 2.7), ylim=(-last - 0.5, 0.5))
    axes.axis("off")


def _label(layer: ConvLayer) -> str:
    strides = (layer.stride_height, layer.stride_width)
    stride = "" if strides == (1, 1) else f", stride {strides[0]}x{strides[1]}"
    return f"{layer.filter_height}x{layer.filter_width}, {layer.filters}{stride}"


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
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=1)
