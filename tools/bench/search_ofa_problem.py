"""MIT's real search problem: its accuracy predictor and its latency tables of a Samsung Note10, for both sides."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ofa_kit.arch.features import AdditiveCost, block_cost
from ofa_kit.arch.genes import SKIPPED, Genomes
from ofa_kit.arch.presets import preset
from ofa_kit.arch.space import SearchSpace
from ofa_kit.latency.foreign import import_mit_tables

RESOLUTIONS = (160, 176, 192, 208, 224)
KERNELS, RATIOS = (3, 5, 7), (3, 4, 6)
BLOCKS = 20
Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Problem:
    """What a search of ours is given: a space, top-1 in percent and latency in milliseconds."""

    space: SearchSpace
    weights: Weights
    block_ms: AdditiveCost

    def predict_latency_ms(self, genomes: Genomes) -> NDArray[np.float64]:
        """Return the sum of the table's entries of each genome, shape (N,)."""
        return self.block_ms.total(genomes)

    def predict_top1(self, genomes: Genomes) -> NDArray[np.float64]:
        """Return what MIT's predictor says in percent, shape (N,), in float32 as there."""
        columns, width = self._columns
        features = np.zeros((len(genomes), width), dtype=np.float32)
        features[np.arange(len(genomes))[:, None], columns[np.arange(genomes.shape[1]), genomes]] = 1
        (matrix, bias), *others = self._layers
        hidden = features @ matrix + bias
        for matrix, bias in others:
            hidden = np.maximum(hidden, 0, out=hidden) @ matrix
            hidden += bias
        return 100.0 * hidden[:, 0].astype(np.float64)

    @cached_property
    def _columns(self) -> tuple[NDArray[np.int64], int]:
        """Return the column that each choice (gene, choice) turns on; the last one, which is unused, for none."""
        unused = BLOCKS * 6 + 8
        most = int(self.space.choice_counts.max())
        columns = np.full((self.space.genome_length, most + 1), unused)  # SKIPPED, -1, is the last
        for position, gene in enumerate(self.space.genes):
            for index, choice in enumerate(gene.choices):
                place = 4 * gene.stage + gene.block
                if gene.kind == "resolution":
                    columns[position, index] = BLOCKS * 6 + (choice - 112) // 16
                elif gene.kind == "kernel_size":
                    columns[position, index] = 3 * place + KERNELS.index(choice)
                elif gene.kind == "expand_ratio":
                    columns[position, index] = BLOCKS * 3 + 3 * place + RATIOS.index(choice)
        assert SKIPPED == -1
        return columns, unused + 1

    @cached_property
    def _layers(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        matrices, biases = layer_weights(self.weights)
        made = [(np.ascontiguousarray(m.T), b) for m, b in zip(matrices, biases, strict=True)]
        first = np.vstack([made[0][0], np.zeros_like(made[0][0][:1])])
        return [(first, made[0][1]), *made[1:]]


def layer_weights(weights: Weights) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Return the matrices (out, in) and the biases of the predictor, first layer first."""
    matrices = [weights[name] for name in weights if name.endswith("weight")]
    return matrices, [weights[name] for name in weights if name.endswith("bias")]


def open_problem(data: Path, scratch: Path) -> Problem:
    """Read MIT's files in `data`, importing its tables into a folder for the time being."""
    space = replace(preset("ofa-mbv3-w1.2"), resolutions=RESOLUTIONS)
    files = [data / f"{size}_lookup_table.yaml" for size in RESOLUTIONS]
    table = import_mit_tables(files, scratch, "note10", space)
    weights: dict[str, Any] = dict(np.load(data / "accuracy_predictor.npz"))
    return Problem(space, weights, block_cost(space, table.blocks))


def read_tables(data: Path) -> dict[int, Mapping[str, float]]:
    """Return MIT's tables as they are: milliseconds by the name of an entry, by resolution."""
    texts = {size: (data / f"{size}_lookup_table.yaml").read_text() for size in RESOLUTIONS}
    loaded = {size: yaml.load(text, Loader=yaml.CSafeLoader) for size, text in texts.items()}
    return {size: {name: entry["mean"] for name, entry in table.items()} for size, table in loaded.items()}
