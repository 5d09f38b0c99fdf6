"""Rules: which subnets one step trains, and on which targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace

Target = Literal["labels", "largest", "teacher"]
"""The true labels; the first subnet's output in the same step; the labels and the teacher's output."""
LossOf = Callable[[ArchConfig], float]
"""Loss of a subnet on the images of the step."""
Preference = Literal["none", "best-up", "worst-up"]
POOL = 4096


@dataclass(frozen=True)
class Pass:
    """One subnet of a step and what it learns from."""

    arch: ArchConfig
    target: Target
    regularized: bool = False
    """Whether dropout and drop-connect act on it."""


class Rule(Protocol):
    """Draws the passes of one step; their gradients are added up."""

    def passes(self, rng: np.random.Generator, loss_of: LossOf) -> list[Pass]: ...

    @property
    def fixed(self) -> Sequence[ArchConfig]:
        """Return the subnets that every step trains."""
        ...


@dataclass(frozen=True)
class Sandwich:
    """Largest on labels, then smallest and random ones on the largest's output (Yu & Huang 2019; BigNAS).

    With a preference, each random one is the best or worst by loss of some candidates of about the same MACs
    (AttentiveNAS, Wang et al. 2021: best-up and worst-up sampling by mini-batch loss).
    """

    space: SearchSpace
    num_random: int
    preference: Preference = "none"
    num_candidates: int = 3

    def passes(self, rng: np.random.Generator, loss_of: LossOf) -> list[Pass]:
        drawn = [self._draw(rng, loss_of) for _ in range(self.num_random)]
        others = [Pass(arch, "largest") for arch in (self.space.smallest(), *drawn)]
        return [Pass(self.space.largest(), "labels", regularized=True), *others]

    @property
    def fixed(self) -> Sequence[ArchConfig]:
        return (self.space.largest(), self.space.smallest())

    def _draw(self, rng: np.random.Generator, loss_of: LossOf) -> ArchConfig:
        if self.preference == "none":
            return self.space.sample(rng)
        candidates = similar_macs(self.space, self.num_candidates, rng)
        losses = [loss_of(arch) for arch in candidates]
        return candidates[int(np.argmin(losses) if self.preference == "best-up" else np.argmax(losses))]


@dataclass(frozen=True)
class SinglePath:
    """One uniform subnet on labels (Guo et al. 2020), or on labels and a teacher."""

    space: SearchSpace
    target: Target = "labels"

    def passes(self, rng: np.random.Generator, loss_of: LossOf) -> list[Pass]:
        return [Pass(self.space.sample(rng), self.target)]

    @property
    def fixed(self) -> Sequence[ArchConfig]:
        return ()


@dataclass(frozen=True)
class StrictlyFair:
    """As many subnets as the longest gene has choices, which use all choices of each gene equally often.

    FairNAS (Chu et al. 2021): no choice gets more updates than another in any step. A gene with fewer choices uses
    each as often as the number divides; what remains is drawn without replacement.
    """

    space: SearchSpace
    target: Target = "labels"

    def passes(self, rng: np.random.Generator, loss_of: LossOf) -> list[Pass]:
        count = int(self.space.choice_counts.max())
        columns = [
            np.concatenate([rng.permutation(choices) for _ in range(-(-count // choices))])[:count]
            for choices in self.space.choice_counts
        ]
        genomes = self.space.canonical(np.stack(columns, axis=1))
        return [Pass(self.space.decode(genome), self.target) for genome in genomes]

    @property
    def fixed(self) -> Sequence[ArchConfig]:
        return ()


@dataclass(frozen=True)
class Shrinking:
    """Random subnets at one resolution, with or without a teacher (Cai et al. 2020)."""

    space: SearchSpace
    subnets: int
    target: Target

    def passes(self, rng: np.random.Generator, loss_of: LossOf) -> list[Pass]:
        resolution = int(rng.choice(self.space.resolutions))
        return [Pass(replace(self.space.sample(rng), resolution=resolution), self.target) for _ in range(self.subnets)]

    @property
    def fixed(self) -> Sequence[ArchConfig]:
        return ()


def similar_macs(space: SearchSpace, count: int, rng: np.random.Generator) -> list[ArchConfig]:
    """Return `count` uniform subnets of about the same MACs, those distributed as uniform subnets' are."""
    pool = _pool_by_macs(space)
    width = min(len(pool), 8 * count)
    start = int(np.clip(rng.integers(len(pool)) - width // 2, 0, len(pool) - width))
    chosen = rng.choice(width, size=min(count, width), replace=False)
    return [space.decode(pool[start + index]) for index in chosen]


@lru_cache(maxsize=8)
def _pool_by_macs(space: SearchSpace) -> Genomes:
    pool = space.sample_genomes(POOL, np.random.default_rng(0))
    return pool[np.argsort(macs_of(space, pool), kind="stable")]
