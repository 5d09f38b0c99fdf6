"""SearchSpace: which architectures exist, and their integer genomes.

A genome is one row of int64: the index of the resolution, then for each stage the index of its depth followed by
(kernel_size index, expand_ratio index) for each possible block. Genes of skipped blocks are SKIPPED, so equal
networks have equal genomes. Every operation works on a whole population, shape (N, genome_length).
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig, StageConfig

Genomes = NDArray[np.int64]
SKIPPED = -1


@dataclass(frozen=True, kw_only=True)
class StageSpace:
    """The choices of one stage, and what is fixed in it."""

    width: int
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int, ...]
    stride: int
    activation: str
    squeeze_excite: bool

    @property
    def max_depth(self) -> int:
        return max(self.depths)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A MobileNetV3-style family: fixed stem, first block and head around elastic stages."""

    name: str
    resolutions: tuple[int, ...]
    stages: tuple[StageSpace, ...]
    in_channels: int
    num_classes: int
    stem_width: int
    stem_stride: int
    first_width: int
    """Output channels of the first, not elastic block."""
    final_expand_width: int
    feature_width: int

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of everything that decides weights and latency, the name left out."""
        values = {k: v for k, v in asdict(self).items() if k != "name"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def choice_counts(self) -> NDArray[np.int64]:
        """Number of choices of each gene, shape (genome_length,)."""
        counts = [len(self.resolutions)]
        for stage in self.stages:
            counts += [len(stage.depths)] + [len(stage.kernel_sizes), len(stage.expand_ratios)] * stage.max_depth
        return np.array(counts)

    @cached_property
    def depth_genes(self) -> tuple[int, ...]:
        """Position of each stage's depth gene."""
        starts = np.cumsum([1] + [1 + 2 * s.max_depth for s in self.stages])
        return tuple(int(start) for start in starts[:-1])

    @property
    def genome_length(self) -> int:
        return len(self.choice_counts)

    def adapted(self, *, in_channels: int, num_classes: int) -> "SearchSpace":
        """Return the space for other images and classes; its name says so."""
        if (in_channels, num_classes) == (self.in_channels, self.num_classes):
            return self
        name = f"{self.name}-{in_channels}x{num_classes}"
        return replace(self, name=name, in_channels=in_channels, num_classes=num_classes)

    def size(self) -> int:
        """Return the exact number of different architectures."""
        total = len(self.resolutions)
        for stage in self.stages:
            block = len(stage.kernel_sizes) * len(stage.expand_ratios)
            total *= sum(block**depth for depth in stage.depths)
        return total

    def smallest(self) -> ArchConfig:
        return self._extreme(min)

    def largest(self) -> ArchConfig:
        return self._extreme(max)

    def contains(self, arch: ArchConfig) -> bool:
        return (
            arch.resolution in self.resolutions
            and len(arch.stages) == len(self.stages)
            and all(
                stage.width == choices.width
                and stage.depth in choices.depths
                and set(stage.kernel_sizes) <= set(choices.kernel_sizes)
                and set(stage.expand_ratios) <= set(choices.expand_ratios)
                for stage, choices in zip(arch.stages, self.stages, strict=True)
            )
        )

    def iterate(self) -> Iterator[ArchConfig]:
        """Yield every architecture; only for small spaces."""
        stage_options = []
        for s in self.stages:
            blocks = list(product(s.kernel_sizes, s.expand_ratios))
            stage_options.append(
                [
                    StageConfig(s.width, tuple(k for k, _ in chosen), tuple(e for _, e in chosen))
                    for depth in s.depths
                    for chosen in product(blocks, repeat=depth)
                ]
            )
        for resolution in self.resolutions:
            for stages in product(*stage_options):
                yield ArchConfig(resolution, stages)

    def sample(self, rng: np.random.Generator) -> ArchConfig:
        """Return an architecture with every choice drawn uniformly."""
        return self.decode(self.sample_genomes(1, rng)[0])

    def mutate(self, arch: ArchConfig, rng: np.random.Generator, probability: float = 0.1) -> ArchConfig:
        return self.decode(self.mutate_genomes(self.encode(arch)[None], rng, probability)[0])

    def crossover(self, one: ArchConfig, other: ArchConfig, rng: np.random.Generator) -> ArchConfig:
        return self.decode(self.crossover_genomes(self.encode(one)[None], self.encode(other)[None], rng)[0])

    def encode(self, arch: ArchConfig) -> NDArray[np.int64]:
        """Return the genome, shape (genome_length,); a ValueError when the space does not contain `arch`."""
        if not self.contains(arch):
            raise ValueError(f"{arch} is not in the space '{self.name}'")
        genome = [self.resolutions.index(arch.resolution)]
        for stage, choices in zip(arch.stages, self.stages, strict=True):
            genome.append(choices.depths.index(stage.depth))
            for kernel, expand in zip(stage.kernel_sizes, stage.expand_ratios, strict=True):
                genome += [choices.kernel_sizes.index(kernel), choices.expand_ratios.index(expand)]
            genome += [SKIPPED] * (2 * (choices.max_depth - stage.depth))
        return np.array(genome, dtype=np.int64)

    def decode(self, genome: NDArray[np.int64]) -> ArchConfig:
        """Return the architecture of one genome, shape (genome_length,)."""
        stages = []
        for start, s in zip(self.depth_genes, self.stages, strict=True):
            depth = s.depths[int(genome[start])]
            genes = genome[start + 1 : start + 1 + 2 * depth]
            kernels = tuple(s.kernel_sizes[int(g)] for g in genes[0::2])
            expands = tuple(s.expand_ratios[int(g)] for g in genes[1::2])
            stages.append(StageConfig(s.width, kernels, expands))
        return ArchConfig(self.resolutions[int(genome[0])], tuple(stages))

    def sample_genomes(self, count: int, rng: np.random.Generator) -> Genomes:
        genomes = rng.integers(0, self.choice_counts, size=(count, self.genome_length))
        return self.canonical(genomes)

    def mutate_genomes(self, genomes: Genomes, rng: np.random.Generator, probability: float = 0.1) -> Genomes:
        """Redraw each gene with the given probability; blocks that a deeper stage brings in are drawn afresh."""
        fresh = rng.integers(0, self.choice_counts, size=genomes.shape)
        redraw = (rng.random(genomes.shape) < probability) | (genomes == SKIPPED)
        return self.canonical(np.where(redraw, fresh, genomes))

    def crossover_genomes(self, ones: Genomes, others: Genomes, rng: np.random.Generator) -> Genomes:
        """Take each gene from either parent; where the chosen one skips the block, from the other."""
        chosen = np.where(rng.random(ones.shape) < 0.5, ones, others)
        chosen = np.where(chosen == SKIPPED, np.maximum(ones, others), chosen)
        return self.canonical(np.where(chosen == SKIPPED, 0, chosen))

    def canonical(self, genomes: Genomes) -> Genomes:
        """Mark the genes of skipped blocks."""
        genomes = genomes.copy()
        for start, stage in zip(self.depth_genes, self.stages, strict=True):
            depth = np.array(stage.depths)[genomes[:, start]]
            block = np.arange(2 * stage.max_depth) // 2
            genes = genomes[:, start + 1 : start + 1 + 2 * stage.max_depth]
            genes[block[None, :] >= depth[:, None]] = SKIPPED
        return genomes

    def restricted(
        self,
        *,
        kernel_sizes: int | None = None,
        depths: int | None = None,
        expand_ratios: int | None = None,
    ) -> "SearchSpace":
        """Return the sub-space that keeps only the given number of largest choices of each kind."""
        stages = tuple(
            replace(
                s,
                kernel_sizes=_largest_of(s.kernel_sizes, kernel_sizes),
                depths=_largest_of(s.depths, depths),
                expand_ratios=_largest_of(s.expand_ratios, expand_ratios),
            )
            for s in self.stages
        )
        return replace(self, stages=stages)

    def _extreme(self, pick: Callable[[tuple[int, ...]], int]) -> ArchConfig:
        stages = tuple(
            StageConfig(s.width, (pick(s.kernel_sizes),) * pick(s.depths), (pick(s.expand_ratios),) * pick(s.depths))
            for s in self.stages
        )
        return ArchConfig(pick(self.resolutions), stages)


def _largest_of(choices: tuple[int, ...], count: int | None) -> tuple[int, ...]:
    return choices if count is None else tuple(sorted(choices)[-count:])
