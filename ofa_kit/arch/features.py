"""Whole populations of genomes at once: additive costs and the features that predictors learn from."""

from collections.abc import Callable
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
LOG_MACS_WEIGHT = 5.0


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a sum over layers: one table a slot, indexed by the genes that decide its layer."""

    space: SearchSpace
    tables: tuple[tuple[Slot, Values], ...]

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
    tables = []
    for slot in slots(space):
        choices = [space.genes[space.positions[place]].choices for place in slot.places]
        costs = [cost_of(slot.layer(dict(zip(slot.places, values, strict=True)))) for values in product(*choices)]
        tables.append((slot, np.array(costs, dtype=float).reshape([len(c) for c in choices])))
    return AdditiveCost(space, tuple(tables))


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


def accuracy_features(space: SearchSpace, genomes: Genomes) -> Values:
    """Return (N, F): one-hot of every choice, depth per stage, log-MACs and its square, log-params, log-resolution.

    Log-MACs carry the space-wide order that one-hot features alone must learn from many subnets, so they weigh five
    times as much; all dense features are scaled by the ends of the space, never by the population at hand.
    """
    one_hot = [genomes[:, [gene]] == np.arange(count) for gene, count in enumerate(space.choice_counts)]
    depths = [
        np.array(stage.depths)[genomes[:, start]] / stage.max_depth
        for start, stage in zip(space.depth_genes, space.stages, strict=True)
    ]
    macs, params = (_log_scaled(space, cost, genomes) for cost in (macs_of, params_of))
    resolutions = np.log(space.resolutions)
    resolution = (resolutions[genomes[:, 0]] - resolutions.min()) / max(np.ptp(resolutions), 1e-9)
    dense = [*depths, LOG_MACS_WEIGHT * macs, LOG_MACS_WEIGHT * macs**2, params, resolution]
    return np.hstack([np.hstack(one_hot).astype(float), np.stack(dense, axis=1)])


def _log_scaled(space: SearchSpace, cost: Callable[[SearchSpace, Genomes], Values], genomes: Genomes) -> Values:
    """Return the logarithm of a cost, -1 for the smallest and 1 for the largest subnet."""
    ends = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    low, high = np.log(cost(space, ends))
    return np.asarray((np.log(cost(space, genomes)) - (low + high) / 2) / max((high - low) / 2, 1e-9))


@lru_cache(maxsize=64)
def _macs_cost(space: SearchSpace) -> AdditiveCost:
    return additive_cost(space, lambda layer: layer.macs)


@lru_cache(maxsize=64)
def _params_cost(space: SearchSpace) -> AdditiveCost:
    return additive_cost(space, lambda layer: layer.params)
