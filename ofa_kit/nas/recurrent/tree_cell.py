"""TreeCell: the recurrent cell that a tree of combinations and activations describes (Zoph & Le 2017, sec. 3.4)."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ofa_kit.nas.recurrent.cell import ACTIVATIONS, RecurrentCell, State
from ofa_kit.nas.recurrent.dropout import Masks, dropped
from ofa_kit.nas.recurrent.tree import Label, TreeGenotype

COMBINATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"add": torch.add, "multiply": torch.mul}


class TreeCell(RecurrentCell):
    """Each leaf has a matrix for the input and one for the state; inner nodes have no weights. State: h and c."""

    state_tensors: ClassVar[int] = 2

    def __init__(
        self, genotype: TreeGenotype, hidden: int, generator: torch.Generator, *, init_range: float = 0.04
    ) -> None:
        super().__init__(hidden, genotype.base, init_range, generator)
        self.genotype = genotype

    def step(self, x: Tensor, state: State, weights: Mapping[str, Tensor], masks: Masks, choice: Any) -> State:
        genotype, (output, memory) = self.genotype, state
        from_state = dropped(output, masks.cell_state) @ weights["state_weight"]
        sides = list(zip(x.chunk(genotype.base, -1), from_state.chunk(genotype.base, -1), strict=True))
        found: list[Tensor] = []
        kept = memory
        for number, (combination, activation) in enumerate(genotype.nodes):
            left, right = sides[number] if number < genotype.base else (found[n] for n in genotype.read_by(number))
            combined = COMBINATIONS[combination](left, right)
            if number == genotype.memory_from:
                kept = combined
            value = ACTIVATIONS[activation](combined)
            found.append(joined(genotype.inject, value, memory) if number == genotype.memory_into else value)
        return found[-1], kept


def joined(label: Label, left: Tensor, right: Tensor) -> Tensor:
    """Return the activation of the sum or product of two tensors."""
    combination, activation = label
    return ACTIVATIONS[activation](COMBINATIONS[combination](left, right))
