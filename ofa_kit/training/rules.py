"""Rules: which subnets one step trains, and on which targets."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.space import SearchSpace

Target = Literal["labels", "largest", "teacher"]
"""The true labels; the first subnet's output in the same step; the labels and the teacher's output."""


@dataclass(frozen=True)
class Pass:
    """One subnet of a step and what it learns from."""

    arch: ArchConfig
    target: Target


class Rule(Protocol):
    """Draws the passes of one step; their gradients are added up."""

    def passes(self, rng: np.random.Generator) -> list[Pass]: ...


@dataclass(frozen=True)
class Sandwich:
    """Largest on labels, then smallest and random ones on the largest's output (Yu & Huang 2019; BigNAS)."""

    space: SearchSpace
    num_random: int

    def passes(self, rng: np.random.Generator) -> list[Pass]:
        others = [self.space.smallest(), *(self.space.sample(rng) for _ in range(self.num_random))]
        return [Pass(self.space.largest(), "labels"), *(Pass(arch, "largest") for arch in others)]


@dataclass(frozen=True)
class SinglePath:
    """One uniform subnet on labels (Guo et al. 2020)."""

    space: SearchSpace

    def passes(self, rng: np.random.Generator) -> list[Pass]:
        return [Pass(self.space.sample(rng), "labels")]


@dataclass(frozen=True)
class Shrinking:
    """Random subnets at one resolution, with or without a teacher (Cai et al. 2020)."""

    space: SearchSpace
    subnets: int
    target: Target

    def passes(self, rng: np.random.Generator) -> list[Pass]:
        resolution = int(rng.choice(self.space.resolutions))
        return [Pass(replace(self.space.sample(rng), resolution=resolution), self.target) for _ in range(self.subnets)]
