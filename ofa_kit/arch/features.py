"""Whole populations of genomes at once: additive costs and the features that predictors learn from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig, StageConfig
from ofa_kit.arch.layers import Layer, layers
from ofa_kit.arch.space import SKIPPED, Genomes, SearchSpace

Values = NDArray[np.float64]
LOG_MACS_WEIGHT = 5.0


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a sum over layers: `fixed` (R,) by resolution, `blocks[stage]` (R, depth, kernels, expands)."""

    space: SearchSpace
    fixed: Values
    blocks: tuple[Values, ...]

    def total(self, genomes: Genomes) -> Values:
        """Return the cost of each genome, shape (N,)."""
        resolution = genomes[:, 0]
        total = self.fixed[resolution].copy()
        for start, stage, cost in zip(self.space.depth_genes, self.space.stages, self.blocks, strict=True):
            for block in range(stage.max_depth):
                kernel, expand = genomes[:, start + 1 + 2 * block], genomes[:, start + 2 + 2 * block]
                total += np.where(kernel == SKIPPED, 0.0, cost[resolution, block, kernel, expand])
        return total


def additive_cost(space: SearchSpace, cost_of: Callable[[Layer], float]) -> AdditiveCost:
    """Tabulate a cost of single layers for every choice of the space; NaN where `cost_of` does not know a layer."""
    shapes = [(len(space.resolutions), s.max_depth, len(s.kernel_sizes), len(s.expand_ratios)) for s in space.stages]
    fixed = np.zeros(len(space.resolutions))
    blocks = [np.zeros(shape) for shape in shapes]
    for r, resolution in enumerate(space.resolutions):
        for k, e, arch in _uniform_archs(space, resolution):
            costs = {layer.name: cost_of(layer) for layer in layers(space, arch)}
            for s, stage in enumerate(space.stages):
                if k < len(stage.kernel_sizes) and e < len(stage.expand_ratios):
                    blocks[s][r, :, k, e] = [costs[f"stage{s}_block{b}"] for b in range(stage.max_depth)]
            fixed[r] = sum(cost for name, cost in costs.items() if not name.startswith("stage"))
    return AdditiveCost(space, fixed, tuple(blocks))


def distinct_layers(space: SearchSpace, resolution: int) -> dict[str, Layer]:
    """Return every layer that occurs at a resolution, by lowering key."""
    archs = [arch for _, _, arch in _uniform_archs(space, resolution)]
    return {layer.key: layer for arch in archs for layer in layers(space, arch)}


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


def _uniform_archs(space: SearchSpace, resolution: int) -> Iterator[tuple[int, int, ArchConfig]]:
    """Yield (kernel index, expand index, deepest arch that uses this choice everywhere it exists)."""
    for k in range(max(len(s.kernel_sizes) for s in space.stages)):
        for e in range(max(len(s.expand_ratios) for s in space.stages)):
            stages = tuple(
                StageConfig(
                    s.width,
                    (s.kernel_sizes[min(k, len(s.kernel_sizes) - 1)],) * s.max_depth,
                    (s.expand_ratios[min(e, len(s.expand_ratios) - 1)],) * s.max_depth,
                )
                for s in space.stages
            )
            yield k, e, ArchConfig(resolution, stages)
