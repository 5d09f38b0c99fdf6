"""Whole populations of genomes at once: additive costs and the features that predictors learn from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import RESOLUTION, Slot, slots
from ofa_kit.arch.space import SearchSpace

Values = NDArray[np.float64]


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a sum over layers: one table a slot, indexed by the genes that decide its layer."""

    space: SearchSpace
    tables: tuple[tuple[Slot, Values], ...]

    @property
    def complete(self) -> bool:
        """Whether the cost of every layer of the space is known."""
        return not any(np.isnan(table).any() for _, table in self.tables)

    def total(self, genomes: Genomes) -> Values:
        """Return the cost of each genome, shape (N,)."""
        total = np.zeros(len(genomes))
        chosen = np.maximum(genomes, 0)  # what a skipped block would cost is left out below
        for slot, table in self.tables:
            cost = table[tuple(chosen[:, self.space.positions[place]] for place in slot.places)]
            total += np.where(self._filled(slot, genomes), cost, 0.0)
        return total

    def _filled(self, slot: Slot, genomes: Genomes) -> NDArray[np.bool_]:
        filled = np.ones(len(genomes), dtype=bool)
        if slot.depth_of is not None:
            stage, block = slot.depth_of
            depths = np.array(self.space.stages[stage].depths)
            filled &= depths[genomes[:, self.space.positions["depth", stage, 0]]] > block
        if slot.present is not None:
            filled &= genomes[:, self.space.positions[slot.present]] > 0
        return filled


def additive_cost(space: SearchSpace, cost_of: Callable[[Layer], float]) -> AdditiveCost:
    """Tabulate a cost of single layers for every choice of the space; NaN where `cost_of` does not know a layer."""
    return additive_costs(space, lambda layer, resolution: (cost_of(layer),))[0]


def additive_costs(space: SearchSpace, costs_of: Callable[[Layer, int], Sequence[float]]) -> tuple[AdditiveCost, ...]:
    """Tabulate several costs at once, each of a layer and the resolution of the network that it is in."""
    tables = []
    for slot in slots(space):
        choices = [space.genes[space.positions[place]].choices for place in slot.places]
        chosen = [dict(zip(slot.places, values, strict=True)) for values in product(*choices)]
        costs = np.array([costs_of(slot.layer(values), values[RESOLUTION]) for values in chosen], dtype=float)
        tables.append([(slot, column.reshape([len(c) for c in choices])) for column in costs.T])
    return tuple(AdditiveCost(space, columns) for columns in zip(*tables, strict=True))


def block_cost(space: SearchSpace, times_ms: Mapping[str, float]) -> AdditiveCost:
    """Tabulate measured block times by `key_at` or else by lowering key; NaN where there is none."""

    def time_ms(layer: Layer, resolution: int) -> tuple[float]:
        return (times_ms.get(key_at(layer, resolution), times_ms.get(layer.key, float("nan"))),)

    return additive_costs(space, time_ms)[0]


def key_at(layer: Layer, resolution: int) -> str:
    """Name a block's time that holds only in networks of one input resolution."""
    return f"{layer.key}@{resolution}"


def weighted_cost(costs: Sequence[AdditiveCost], weights: Sequence[float]) -> AdditiveCost:
    """Return the weighted sum of costs of one space as one cost: a total takes one look-up a slot."""
    together = zip(*(cost.tables for cost in costs), strict=True)
    return AdditiveCost(
        costs[0].space,
        tuple(
            (columns[0][0], sum(w * table for w, (_, table) in zip(weights, columns, strict=True)))
            for columns in together
        ),
    )


def distinct_layers(space: SearchSpace, resolution: int) -> dict[str, Layer]:
    """Return every layer that occurs at a resolution, by lowering key."""
    found: dict[str, Layer] = {}
    for slot in slots(space):
        choices = [
            (resolution,) if place == RESOLUTION else space.genes[space.positions[place]].choices
            for place in slot.places
        ]
        for values in product(*choices):
            layer = slot.layer(dict(zip(slot.places, values, strict=True)))
            found.setdefault(layer.key, layer)
    return found


def macs_of(space: SearchSpace, genomes: Genomes) -> Values:
    """Return the multiply-adds of each genome for one image, shape (N,)."""
    return _macs_cost(space).total(genomes)


def params_of(space: SearchSpace, genomes: Genomes) -> Values:
    """Return the number of parameters of each genome, shape (N,)."""
    return _params_cost(space).total(genomes)


def bit_operations_of(space: SearchSpace, genomes: Genomes) -> Values:
    """Return the multiply-adds of each genome's quantised layers times the bits of both factors, shape (N,)."""
    return _bits_cost(space).total(genomes)


@lru_cache(maxsize=64)
def physical_costs(space: SearchSpace) -> dict[str, AdditiveCost]:
    """Return what the time of a network can depend on, by the names of `PHYSICAL`: each a sum over its layers."""
    costs = additive_costs(space, lambda layer, resolution: [cost_of(layer) for cost_of in PHYSICAL.values()])
    return dict(zip(PHYSICAL, costs, strict=True))


def accuracy_features(space: SearchSpace, genomes: Genomes) -> Values:
    """Return (N, C + 2): one-hot of every choice, in genome order and zero in skipped blocks, log-MACs, log-params.

    Both logarithms are scaled by the ends of the space, never by the population at hand. Saved accuracy predictors
    are read with these columns: what they are made of may change only together with the version of that file.
    """
    one_hot = [genomes[:, [gene]] == np.arange(count) for gene, count in enumerate(space.choice_counts)]
    costs = [_log_scaled(space, cost, genomes)[:, None] for cost in (macs_of, params_of)]
    return np.hstack([*one_hot, *costs]).astype(float)


def _log_scaled(space: SearchSpace, cost: Callable[[SearchSpace, Genomes], Values], genomes: Genomes) -> Values:
    """Return the logarithm of a cost, -1 for the smallest and 1 for the largest subnet."""
    ends = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    low, high = np.log(cost(space, ends))
    return np.asarray((np.log(cost(space, genomes)) - (low + high) / 2) / max((high - low) / 2, 1e-9))


@lru_cache(maxsize=64)
def _macs_cost(space: SearchSpace) -> AdditiveCost:
    return additive_cost(space, lambda layer: layer.macs)


@lru_cache(maxsize=64)
def _bits_cost(space: SearchSpace) -> AdditiveCost:
    return additive_cost(space, lambda layer: layer.bit_operations)


@lru_cache(maxsize=64)
def _params_cost(space: SearchSpace) -> AdditiveCost:
    return additive_cost(space, lambda layer: layer.params)


def _is_block(layer: Layer) -> bool:
    return layer.op in ("inverted_residual", "bottleneck") or bool(layer.branches.main)


def _kernels(layer: Layer) -> int:
    """Return the matrix products and convolutions that a layer runs."""
    if layer.op == "max_pool" or not _is_block(layer):
        return int(layer.op != "max_pool")
    if layer.branches.main:
        return len(layer.branches.convs)
    inside = 2 + (layer.expands or layer.op == "bottleneck")
    return inside + 2 * (layer.squeeze_channels > 0) + layer.shortcut_conv


def _spatial_macs(layer: Layer) -> int:
    """Return the multiply-adds of the convolution that sees neighbours; 0 where all kernels are 1x1."""
    if layer.kernel_size == 1 or layer.op == "max_pool":
        return 0
    if layer.branches.main:
        return sum(conv.macs for conv in layer.branches.convs if conv.depthwise)
    if layer.op == "conv":
        return layer.macs
    depth = layer.hidden_channels if layer.op == "bottleneck" else 1
    return layer.kernel_size**2 * layer.hidden_channels * depth * layer.output_size**2


def _is_depthwise(layer: Layer) -> bool:
    return _is_block(layer) and layer.op != "bottleneck"


def _ends(layer: Layer) -> int:
    """Return the elements that a layer reads and writes."""
    return layer.in_channels * layer.input_size**2 + layer.out_channels * layer.output_size**2


PHYSICAL: dict[str, Callable[[Layer], float]] = {
    "layers": lambda layer: 1.0,
    "kernels": _kernels,
    "blocks": _is_block,
    "squeezes": lambda layer: layer.squeeze_channels > 0,
    "smooth_blocks": lambda layer: _is_block(layer) and layer.activation not in ("none", "relu", "relu6"),
    "pointwise_macs": lambda layer: layer.macs - _spatial_macs(layer),
    "depthwise_macs": lambda layer: _spatial_macs(layer) * _is_depthwise(layer),
    "dense_macs": lambda layer: _spatial_macs(layer) * (not _is_depthwise(layer)),
    "wide_elements": lambda layer: layer.hidden_channels * layer.input_size**2,
    "block_elements": lambda layer: _ends(layer) * _is_block(layer),
    "other_elements": lambda layer: _ends(layer) * (not _is_block(layer)),
    "params": lambda layer: layer.params,
}
"""What one layer costs, whatever the device; elements and multiply-adds are of one image."""
