"""Costs of whole populations that come from the lowering: weights and the memory of feature maps."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.features import AdditiveCost, additive_cost, params_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.space import SearchSpace

Values = NDArray[np.float64]
BYTES = 4
"""Of a number in fp32."""


def model_mb(space: SearchSpace, genomes: Genomes) -> Values:
    """Return the megabytes (10^6 bytes) of each genome's weights in fp32, shape (N,)."""
    return params_of(space, genomes) * BYTES / 1e6


def peak_memory_mb(space: SearchSpace, genomes: Genomes) -> Values:
    """Return the megabytes (10^6 bytes) of feature maps that exist at once for one image in fp32, shape (N,).

    The largest step of any layer: what an operator reads and writes, and the input that a shortcut waits with. A
    runtime that works in place needs less, one that keeps buffers more.
    """
    layers = _elements(space)
    steps = [AdditiveCost(space, (table,)).total(genomes) for table in layers.tables]
    return np.asarray(np.max(steps, axis=0) * BYTES / 1e6)


@lru_cache(maxsize=64)
def _elements(space: SearchSpace) -> AdditiveCost:
    return additive_cost(space, elements_at_once)


def elements_at_once(layer: Layer) -> int:
    """Return the most elements that a layer holds at once: the largest of its operators' inputs and outputs."""
    before = layer.in_channels * layer.input_size**2
    after = layer.out_channels * layer.output_size**2
    if layer.branches.main:
        steps = [
            conv.in_channels * conv.input_size**2 + conv.out_channels * (-(-conv.input_size // conv.stride)) ** 2
            for conv in layer.branches.convs
        ]
        return before + max(steps)
    if layer.op not in ("inverted_residual", "bottleneck"):
        return before + after
    wide, narrow = (layer.hidden_channels * size**2 for size in (layer.input_size, layer.output_size))
    first = before + wide if layer.op == "bottleneck" or layer.expands else 0
    kept = before if layer.shortcut else 0
    return max(first, kept + wide + narrow, kept + narrow + after)
