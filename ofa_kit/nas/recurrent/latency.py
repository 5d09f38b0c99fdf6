"""Time of one token of a cell's language model on a device: measured, or predicted from a few measured cells."""

from collections.abc import Iterable
from functools import partial

import torch

from ofa_kit.nas.recurrent.any_cell import AnyGenotype, make_language_model, write_cell
from ofa_kit.nas.recurrent.genotype import FUNCTIONS, RecurrentGenotype
from ofa_kit.nas.recurrent.language_model import LanguageModel
from ofa_kit.nas.recurrent.onnx import language_model
from ofa_kit.nas.times import Times


class MeasuredCells:
    """Measures each cell once, with random weights; what was measured stays in the file of `times`."""

    def __init__(self, times: Times, *, hidden: int, words: int) -> None:
        self.times, self.hidden, self.words = times, hidden, words

    def __call__(self, genotype: AnyGenotype) -> float:
        """Return the measured milliseconds of a token."""
        self.measure([genotype])
        return self.times.of(write_cell(genotype)).latency_ms

    def measure(self, genotypes: Iterable[AnyGenotype]) -> None:
        """Measure what was not yet, all in turn."""
        self.times.measure({write_cell(genotype): partial(self._model, genotype) for genotype in genotypes})

    def _model(self, genotype: AnyGenotype) -> bytes:
        model = make_language_model(genotype, self.hidden, self.words, torch.Generator())
        return serialized(model, self.times.backend.profile.batch)


class PredictedCells:
    """Predicts cells of so many nodes by their functions: the mean over the nodes of what was measured of each.

    For each function the cell all of whose nodes have it is measured. Which node another one reads costs no time where
    nodes run one after the other.
    """

    def __init__(self, measured: MeasuredCells, nodes: int) -> None:
        cells = {function: uniform_cell(function, nodes) for function in FUNCTIONS}
        measured.measure(cells.values())
        self.latency_ms = {function: measured(cell) for function, cell in cells.items()}
        """Measured, by the function of all nodes."""

    def __call__(self, genotype: AnyGenotype) -> float:
        """Return the predicted milliseconds of a token."""
        assert isinstance(genotype, RecurrentGenotype)
        functions = [genotype.first, *(function for function, _ in genotype.nodes)]
        return sum(self.latency_ms[function] for function in functions) / len(functions)


def uniform_cell(function: str, nodes: int) -> RecurrentGenotype:
    """Return the cell of `nodes` nodes, the first one included, each of which reads the one before it."""
    return RecurrentGenotype.of_loose([(function, node) for node in range(nodes - 1)], function)


def serialized(model: LanguageModel, batch: int) -> bytes:
    """Return the ONNX model of one token that is timed: it starts from the embedded token."""
    content: bytes = language_model(model, batch=batch, from_embedded=True).SerializeToString()
    return content
