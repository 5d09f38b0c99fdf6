"""SearchSpace: which architectures exist, and their integer genomes.

A genome is one row of int64, one gene a choice: the resolution, the stem's, then for each stage its depth, its width
where it has several, and (kernel_size, expand_ratio) for each possible block, at last the head's. A gene holds the
index of the choice. Genes of skipped blocks are SKIPPED, so equal networks have equal genomes. Every operation works
on a whole population, shape (N, genome_length).
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.choices import Activation, ConvSpace, HeadSpace, StageSpace
from ofa_kit.arch.config import ArchConfig, StageConfig
from ofa_kit.arch.genes import SKIPPED, Gene, Genomes, genes_of

Number = TypeVar("Number", int, float)
LATER: dict[str, Any] = {"operations": (), "weight_bits": (), "activation_bits": (), "classifier_bias": True}
"""Fields that came later, with what they were before: fingerprints of spaces that lack them stay what they were."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Elastic stages between a stem and a head: every family of the package is one of these."""

    name: str
    resolutions: tuple[int, ...]
    stages: tuple[StageSpace, ...]
    in_channels: int
    num_classes: int
    stem: tuple[ConvSpace, ...]
    stem_max_pool: bool = False
    """3x3 max pooling with stride 2 after the stem."""
    first_width: int = 0
    """Output channels of a first, not elastic block (3x3, no expansion); 0 = none."""
    first_activation: Activation = "relu"
    head: HeadSpace
    bn_eps: float = 1e-5
    kernel_transforms: bool = True
    """Smaller kernels are learned transforms of the larger one's centre (once-for-all), or the bare centre (BigNAS)."""
    channel_divisor: int = 8

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of everything that decides weights and latency, the name left out."""
        values = _without_later({k: v for k, v in asdict(self).items() if k != "name"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """The choices of the space in genome order."""
        return genes_of(self.resolutions, self.stem, self.stages, self.head)

    @cached_property
    def positions(self) -> dict[tuple[str, int, int], int]:
        """Where a gene stands, by (kind, stage, block)."""
        return {(gene.kind, gene.stage, gene.block): position for position, gene in enumerate(self.genes)}

    @cached_property
    def choice_counts(self) -> NDArray[np.int64]:
        """Number of choices of each gene, shape (genome_length,)."""
        return np.array([len(gene.choices) for gene in self.genes])

    @cached_property
    def depth_genes(self) -> tuple[int, ...]:
        """Position of each stage's depth gene."""
        return tuple(self.positions["depth", stage, 0] for stage in range(len(self.stages)))

    @property
    def genome_length(self) -> int:
        return len(self.genes)

    def adapted(self, *, in_channels: int, num_classes: int) -> "SearchSpace":
        """Return the space for other images and classes; its name says so."""
        if (in_channels, num_classes) == (self.in_channels, self.num_classes):
            return self
        name = f"{self.name}-{in_channels}x{num_classes}"
        return replace(self, name=name, in_channels=in_channels, num_classes=num_classes)

    def size(self) -> int:
        """Return the exact number of different architectures."""
        total = 1
        for gene in self.genes:
            total *= len(gene.choices) if gene.block_of is None and gene.kind != "depth" else 1
        for stage in self.stages:
            options = [
                1 if stage.shared else math.prod(map(len, stage.choices_of(b).values())) for b in range(stage.max_depth)
            ]
            total *= sum(math.prod(options[:depth]) for depth in stage.depths)
        return total

    def smallest(self) -> ArchConfig:
        """Return the architecture of fewest multiply-adds."""
        return self._extreme(0)

    def largest(self) -> ArchConfig:
        return self._extreme(1)

    def contains(self, arch: ArchConfig) -> bool:
        try:
            self.encode(arch)
        except ValueError:
            return False
        return True

    def iterate(self) -> Iterator[ArchConfig]:
        """Yield every architecture; only for small spaces."""
        every = np.indices(self.choice_counts.tolist()).reshape(self.genome_length, -1).T
        for genome in np.unique(self.canonical(every), axis=0):
            yield self.decode(genome)

    def sample(self, rng: np.random.Generator) -> ArchConfig:
        """Return an architecture with every choice drawn uniformly."""
        return self.decode(self.sample_genomes(1, rng)[0])

    def mutate(self, arch: ArchConfig, rng: np.random.Generator, probability: float = 0.1) -> ArchConfig:
        return self.decode(self.mutate_genomes(self.encode(arch)[None], rng, probability)[0])

    def crossover(self, one: ArchConfig, other: ArchConfig, rng: np.random.Generator) -> ArchConfig:
        return self.decode(self.crossover_genomes(self.encode(one)[None], self.encode(other)[None], rng)[0])

    def encode(self, arch: ArchConfig) -> NDArray[np.int64]:
        """Return the genome, shape (genome_length,); a ValueError when the space does not contain `arch`."""
        try:
            genome = [
                SKIPPED if gene.skipped_in(arch) else gene.choices.index(gene.value_in(arch)) for gene in self.genes
            ]
        except (ValueError, IndexError):
            raise ValueError(f"{arch} is not in the space '{self.name}'") from None
        row = np.array(genome, dtype=np.int64)
        if self.decode(row) != arch:
            raise ValueError(f"{arch} is not in the space '{self.name}'")
        return row

    def decode(self, genome: NDArray[np.int64]) -> ArchConfig:
        """Return the architecture of one genome, shape (genome_length,)."""
        values = {
            key: self.genes[position].choices[int(genome[position])]
            for key, position in self.positions.items()
            if genome[position] != SKIPPED
        }
        return self._arch(lambda kind, stage, block: values[kind, stage, block])

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
        depths = {
            stage: np.array(space.depths)[genomes[:, position]]
            for stage, (position, space) in enumerate(zip(self.depth_genes, self.stages, strict=True))
        }
        for position, gene in enumerate(self.genes):
            if gene.block_of is not None:
                genomes[depths[gene.stage] <= gene.block_of, position] = SKIPPED
        return genomes

    def restricted(
        self,
        *,
        kernel_sizes: int | None = None,
        depths: int | None = None,
        expand_ratios: int | None = None,
        widths: int | None = None,
    ) -> "SearchSpace":
        """Return the sub-space that keeps only the given number of largest choices of each kind."""
        stages = tuple(
            replace(
                s,
                widths=_largest_of(s.widths, widths),
                kernel_sizes=_largest_of(s.kernel_sizes, kernel_sizes),
                depths=_largest_of(s.depths, depths),
                expand_ratios=_largest_of(s.expand_ratios, expand_ratios),
                blocks=tuple(
                    replace(
                        b,
                        kernel_sizes=_largest_of(b.kernel_sizes, kernel_sizes),
                        expand_ratios=_largest_of(b.expand_ratios, expand_ratios),
                    )
                    for b in s.blocks
                ),
            )
            for s in self.stages
        )
        stem = tuple(
            replace(conv, widths=_largest_of(conv.widths, widths), presence=_largest_of(conv.presence, depths))
            for conv in self.stem
        )
        head = replace(self.head, feature_widths=_largest_of(self.head.feature_widths, widths))
        return replace(self, stages=stages, stem=stem, head=head)

    def _extreme(self, end: int) -> ArchConfig:
        genes = {key: self.genes[position].ends[end] for key, position in self.positions.items()}
        return self._arch(lambda kind, stage, block: genes[kind, stage, block])

    def _arch(self, value: Callable[[str, int, int], Any]) -> ArchConfig:
        """Return the architecture whose choice of a kind in (stage, block) is `value(kind, stage, block)`."""
        stages = []
        for s, stage in enumerate(self.stages):
            width = value("width", s, 0) if len(stage.widths) > 1 else stage.widths[0]
            blocks = [0 if stage.shared else b for b in range(value("depth", s, 0))]
            chosen = {kind: tuple(value(kind, s, b) for b in blocks) for kind in stage.choices_of(0)}
            operations = chosen.get("operation", ())
            kernels = tuple(o.kernel_size for o in operations) if operations else chosen["kernel_size"]
            bits = (chosen.get("weight_bits", ()), chosen.get("activation_bits", ()))
            stages.append(StageConfig(width, kernels, chosen["expand_ratio"], operations, *bits))
        stem = tuple(value("stem", 0, gene.block) for gene in self.genes if gene.kind == "stem")
        head = tuple(value("head", 0, gene.block) for gene in self.genes if gene.kind == "head")
        return ArchConfig(value("resolution", 0, 0), tuple(stages), stem, head)


def _without_later(values: Any) -> Any:
    """Return nested values without the later fields that say nothing new."""
    if isinstance(values, dict):
        kept = {k: v for k, v in values.items() if k not in LATER or v != LATER[k]}
        return {k: _without_later(v) for k, v in kept.items()}
    return [_without_later(v) for v in values] if isinstance(values, tuple | list) else values


def _largest_of(choices: tuple[Number, ...], count: int | None) -> tuple[Number, ...]:
    return choices if count is None or not choices else tuple(sorted(choices)[-count:])
