"""Which subnets to measure: smallest, largest, then a sequence spread evenly over log-MACs.

A sequence does not depend on how many are asked for: asking for more later measures only the new ones.
"""

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace

POOL = 6000
NEAR = 60
"""Members of the pool with about the wanted MACs among which the choices decide."""


def spread_subnets(space: SearchSpace, count: int, seed: int = 0) -> list[ArchConfig]:
    """Return `count` different subnets (fewer where the space has fewer), the same for the same seed."""
    pool, log_macs = _pool(space, seed)
    low, high = log_macs.min(), log_macs.max()
    chosen = [space.smallest(), space.largest()]
    keys = {arch.key for arch in chosen}
    for index in range(1, len(pool) + 1):
        if len(chosen) >= count or np.isinf(log_macs).all():
            break
        nearest = int(np.argmin(np.abs(log_macs - (low + (high - low) * _van_der_corput(index)))))
        log_macs[nearest] = np.inf
        arch = space.decode(pool[nearest])
        if arch.key not in keys:
            keys.add(arch.key)
            chosen.append(arch)
    return chosen[:count]


def stratified_subnets(space: SearchSpace, count: int, seed: int = 0) -> list[ArchConfig]:
    """Return subnets as `spread_subnets` does in which every choice of a gene also occurs about equally often.

    Of those with about the wanted MACs, the next is the one whose choices were seen least: MACs alone leave single
    choices out, such as a resolution or a depth that no subnet of the sequence has.
    """
    pool, log_macs = _pool(space, seed)
    low, high = np.log(macs_of(space, _ends(space)))
    chosen = [space.smallest(), space.largest()]
    keys, seen = {arch.key for arch in chosen}, _one_hot(space, _ends(space)).sum(0)
    for index in range(1, len(pool) + 1):
        if len(chosen) >= count or np.isinf(log_macs).all():
            break
        distance = np.abs(log_macs - (low + (high - low) * _van_der_corput(index)))
        near = np.argsort(distance, kind="stable")[:NEAR]
        near = near[np.isfinite(distance[near])]
        choices = _one_hot(space, pool[near])
        rarest = int(np.argmin((choices * _relative_counts(space, seen)).sum(1) / choices.sum(1)))
        log_macs[near[rarest]] = np.inf
        arch = space.decode(pool[near[rarest]])
        if arch.key not in keys:
            keys.add(arch.key)
            seen = seen + choices[rarest]
            chosen.append(arch)
    return chosen[:count]


def _pool(space: SearchSpace, seed: int) -> tuple[Genomes, NDArray[np.float64]]:
    """Return different genomes in random order, many of them near the ends of the space, and their log-MACs."""
    rng = np.random.default_rng([seed, 7])
    near = [space.mutate_genomes(np.repeat(_ends(space), POOL // 12, axis=0), rng, p) for p in (0.15, 0.3, 0.5)]
    pool = np.unique(np.vstack([space.sample_genomes(POOL // 2, rng), *near]), axis=0)
    pool = rng.permutation(pool)
    return pool, np.log(macs_of(space, pool))


def _ends(space: SearchSpace) -> Genomes:
    return np.stack([space.encode(space.smallest()), space.encode(space.largest())])


def _one_hot(space: SearchSpace, genomes: Genomes) -> NDArray[np.int64]:
    """Return (N, sum of choices): 1 for each choice that a genome made."""
    return np.hstack([genomes[:, [g]] == np.arange(count) for g, count in enumerate(space.choice_counts)]).astype(int)


def _relative_counts(space: SearchSpace, seen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how often each choice was seen, 1 for a fair share of its gene."""
    starts = np.cumsum(space.choice_counts) - space.choice_counts
    fair = np.add.reduceat(seen, starts) / space.choice_counts
    return np.asarray(seen / np.repeat(np.maximum(fair, 1e-9), space.choice_counts))


def _van_der_corput(index: int) -> float:
    """Return the index-th number of a sequence that fills 0..1 evenly from any start (base 2)."""
    value, weight = 0.0, 0.5
    while index:
        value += weight * (index & 1)
        index, weight = index >> 1, weight / 2
    return value
