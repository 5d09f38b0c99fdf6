"""Which subnets to measure: smallest, largest, then a sequence spread evenly over log-MACs.

The sequence does not depend on how many are asked for: asking for more later measures only the new ones.
"""

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.space import SearchSpace

POOL = 6000


def spread_subnets(space: SearchSpace, count: int, seed: int = 0) -> list[ArchConfig]:
    """Return `count` different subnets (fewer where the space has fewer), the same for the same seed."""
    rng = np.random.default_rng([seed, 7])
    ends = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    near = [space.mutate_genomes(np.repeat(ends, POOL // 12, axis=0), rng, p) for p in (0.15, 0.3, 0.5)]
    pool = np.unique(np.vstack([space.sample_genomes(POOL // 2, rng), *near]), axis=0)
    pool = rng.permutation(pool)
    log_macs = np.log(macs_of(space, pool))
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


def _van_der_corput(index: int) -> float:
    """Return the index-th number of a sequence that fills 0..1 evenly from any start (base 2)."""
    value, weight = 0.0, 0.5
    while index:
        value += weight * (index & 1)
        index, weight = index >> 1, weight / 2
    return value
