"""The macro search: its architectures are arcs, whole networks of layers with skip connections."""

import torch
from torch import Tensor

from ofa_kit.nas.cells.network import Dropout
from ofa_kit.nas.enas.macro_arc import MacroArc, read_macro_arc, write_on_one_line
from ofa_kit.nas.enas.macro_child import MacroChild
from ofa_kit.nas.enas.macro_controller import MacroController
from ofa_kit.nas.enas.macro_recipe import MacroRecipe
from ofa_kit.nas.enas.search import SharedSearch


class MacroSearch(SharedSearch[MacroArc]):
    """A search of whole networks."""

    recipe: MacroRecipe
    child: MacroChild

    def fresh_child(self) -> MacroChild:
        return MacroChild(self.recipe.child_shape(self.dataset.info))

    def fresh_controller(self, generator: torch.Generator) -> MacroController:
        return MacroController(self.recipe.layers, generator, skip_target=self.recipe.skip_target)

    def logits(self, images: Tensor, arch: MacroArc, dropout: Dropout | None) -> tuple[Tensor, Tensor | None]:
        return self.child.logits(images, arch, dropout)

    def archs(self, tokens: Tensor) -> list[MacroArc]:
        return [MacroArc.of_numbers(row) for row in tokens.tolist()]

    def write(self, arch: MacroArc) -> str:
        return write_on_one_line(arch)

    def read(self, text: str) -> MacroArc:
        return read_macro_arc(text)
