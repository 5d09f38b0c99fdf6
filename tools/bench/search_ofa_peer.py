"""MIT's EvolutionFinder on the same problem: its search, encoder and predictor, and its formula over its tables."""

import contextlib
import io
import random
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
import torch
from ofa.nas.accuracy_predictor import AccuracyPredictor, MobileNetArchEncoder
from ofa.nas.search_algorithm import EvolutionFinder
from search_ofa_problem import RESOLUTIONS, Weights, layer_weights

SIZES = list(range(112, 225, 16))
SETTINGS = {"population_size": 100, "max_time_budget": 500, "parent_ratio": 0.25, "mutation_ratio": 0.5}
SETTINGS |= {"arch_mutate_prob": 0.1, "resolution_mutate_prob": 0.5}
STRIDES, WIDTHS = (2, 2, 2, 1, 2), (32, 48, 96, 136, 192)


class Encoder(MobileNetArchEncoder):  # type: ignore[misc]
    """MIT's encoder with the 8 sizes of its predictor, of which the 5 with tables are drawn."""

    def random_sample_arch(self) -> dict[str, Any]:
        return {**super().random_sample_arch(), "image_size": random.choice(RESOLUTIONS)}

    def mutate_resolution(self, arch_dict: dict[str, Any], mutate_prob: float) -> dict[str, Any]:
        if random.random() < mutate_prob:
            arch_dict["image_size"] = random.choice(RESOLUTIONS)
        return arch_dict


class Peer:
    """MIT's side of the comparison."""

    def __init__(self, weights: Weights, tables: Mapping[int, Mapping[str, float]]) -> None:
        self.predictor = AccuracyPredictor(Encoder(image_size_list=SIZES), device="cpu")
        last = torch.nn.Linear(400, 1)  # this one has a bias, the package's of today has none
        self.predictor.layers[3] = last
        linear = [layer[0] for layer in self.predictor.layers[:3]] + [last]
        with torch.no_grad():
            for module, matrix, bias in zip(linear, *layer_weights(weights), strict=True):
                module.weight.copy_(torch.from_numpy(self._reordered(matrix)))
                module.bias.copy_(torch.from_numpy(bias))
        self.tables = tables

    def search(self, budget_ms: float, seed: int) -> tuple[float, dict[str, Any], float]:
        """Return predicted top-1 in percent, the best description, and seconds of the search."""
        random.seed(seed)
        np.random.seed(seed)
        finder = EvolutionFinder(self, self.predictor, **SETTINGS)
        start = perf_counter()
        with torch.inference_mode(), contextlib.redirect_stdout(io.StringIO()):
            _, best = finder.run_evolution_search(budget_ms)
        return 100 * best[0], best[1], perf_counter() - start

    def get_efficiency(self, arch_dict: Mapping[str, Any]) -> float:
        """Return the latency in milliseconds: the sum of the entries of the network in the table of its resolution."""
        size = arch_dict["image_size"]
        table, half = self.tables[size], (size + 1) // 2
        flat = f"input:{half}x{half}x24-output:{half}x{half}x24"
        total = table[f"Conv-input:{size}x{size}x3-output:{half}x{half}x24"]
        total += table[f"expanded_conv-{flat}-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0"]
        size, width = half, 24
        for stage, depth in enumerate(arch_dict["d"]):
            se, hs, after = int(stage in (1, 3, 4)), int(stage >= 2), WIDTHS[stage]
            for block in range(depth):
                stride = STRIDES[stage] if block == 0 else 1
                smaller = (size - 1) // stride + 1
                kernel, ratio = arch_dict["ks"][4 * stage + block], arch_dict["e"][4 * stage + block]
                total += table[
                    f"expanded_conv-input:{size}x{size}x{width}-output:{smaller}x{smaller}x{after}-"
                    f"expand:{width * ratio}-kernel:{kernel}-stride:{stride}-idskip:{int(block > 0)}-se:{se}-hs:{hs}"
                ]
                size, width = smaller, after
        total += table[f"Conv_1-input:{size}x{size}x192-output:{size}x{size}x1152"]
        total += table[f"AvgPool2D-input:{size}x{size}x1152-output:1x1x1152"]
        return float(
            total + table["Conv_2-input:1x1x1152-output:1x1x1536"] + table["Logits-input:1x1x1536-output:1000"]
        )

    def _reordered(self, matrix: np.ndarray) -> np.ndarray:
        """Return the first matrix with the resolutions first, as the package's encoder has them; others as they are."""
        if matrix.shape[1] != 128:
            return matrix
        return np.ascontiguousarray(np.hstack([matrix[:, 120:], matrix[:, :120]]))
