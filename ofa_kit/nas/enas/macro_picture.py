"""A macro arc as a picture: its layers from top to bottom, colours by operation, what is added beside."""

from pathlib import Path

from ofa_kit.nas.chain_picture import Box, save_chain
from ofa_kit.nas.enas.macro_arc import MacroArc
from ofa_kit.nas.enas.macro_plan import MacroShape

FILLS = {"conv": "#f7dcc9", "sep_conv": "#cfe3f7", "avg_pool": "#dcefd3", "max_pool": "#eceef1"}


def save_macro_picture(arc: MacroArc, folder: Path, name: str = "network") -> list[Path]:
    """Write NAME.svg and NAME.png; needs matplotlib."""
    halves = MacroShape(layers=len(arc.layers), channels=1, image_size=2**16).reductions
    boxes = [Box("stem")]
    for number, layer in enumerate(arc.layers):
        label = f"{number}   {layer.operation.replace('_', ' ')}" + (", halve" if number in halves else "")
        fill = FILLS[layer.operation.rpartition("_")[0]]
        boxes.append(Box(label, (*layer.skips, number), fill))
    return save_chain([*boxes, Box("mean, classifier", (len(arc.layers),))], folder, name)
