"""SPOS's evolution (Guo et al. 2020, sec. 3.4): every candidate is measured, nothing is predicted but its latency.

It is a choice of what to measure next, and the same rows lead to the same next candidates: a search that was killed
goes on by being run again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import OfaKitError
from ofa_kit.search.active import Measured
from ofa_kit.search.budget import Objective

DRAWS = 40
"""Rounds of draws for each part of a generation; what they do not bring within the budget stays away."""
OVERDRAW = 8
"""Draws of a round by the candidates that are still wanted."""


@dataclass(frozen=True, kw_only=True)
class SposSettings:
    """How a search goes; the defaults are the published ones."""

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    mutation_probability: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"population": 1, "generations": 1, "parents": 1, "mutations": 0, "crossovers": 0, "seed": 0}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise OfaKitError(f"--{name} must be at least {number}, found {getattr(self, name)}")
        if self.mutations + self.crossovers > self.population:
            raise OfaKitError(
                f"--mutations {self.mutations} and --crossovers {self.crossovers} are more than --population "
                f"{self.population}; lower them, what they leave free is random"
            )
        if not 0 < self.mutation_probability <= 1:
            raise OfaKitError(
                f"--mutation-probability must be above 0 and at most 1, found {self.mutation_probability:g}"
            )


@dataclass(frozen=True)
class Generation:
    """Candidates within the budget that no generation before had."""

    number: int
    archs: tuple[ArchConfig, ...]
    origins: tuple[str, ...]
    """How each came about: random, mutation or crossover."""


@dataclass(frozen=True, kw_only=True)
class SposEvolution:
    """Random candidates first; then mutations and crossovers of the best so far, filled up with random ones."""

    objective: Objective
    """Its limits count; its `predict_top1` is never asked."""
    start: Genomes
    """Genomes within the budget, shape (S, length): what is mutated where random ones are too rarely within it."""
    settings: SposSettings = field(default_factory=SposSettings)
    bred: dict[int, Generation] = field(default_factory=dict)
    """Generations that were bred already, by number: they stay, whatever latency is predicted later."""

    def next(self, measured: Measured, count: int) -> list[ArchConfig]:
        """Return candidates of the first generation that lacks measurements; [] when the search is over."""
        known = {arch.key for arch, _ in measured}
        for generation in self.generations(measured):
            missing = [arch for arch in generation.archs if arch.key not in known]
            if missing:
                return missing[:count]
        return []

    def generations(self, measured: Measured) -> Iterator[Generation]:
        """Yield the generations that the measured rows lead to, up to the first one that is not measured throughout."""
        top1_of = {arch.key: top1 for arch, top1 in measured}
        judged: list[ArchConfig] = []
        for number in range(self.settings.generations):
            if number not in self.bred:
                best = sorted(judged, key=lambda arch: -top1_of[arch.key])[: self.settings.parents]
                self.bred[number] = self._breed(number, best, judged)
            generation = self.bred[number]
            if generation.archs:
                yield generation
            if not generation.archs or any(arch.key not in top1_of for arch in generation.archs):
                return
            judged += generation.archs

    def _breed(self, number: int, best: Sequence[ArchConfig], judged: Sequence[ArchConfig]) -> Generation:
        space, settings = self.objective.space, self.settings
        rng, seen = np.random.default_rng([settings.seed, number]), _Seen(space, judged)
        parents = np.array([space.encode(arch) for arch in best])

        def mutated(source: Genomes) -> Callable[[int], Genomes]:
            return lambda n: space.mutate_genomes(_drawn(source, n, rng), rng, settings.mutation_probability)

        def crossed(n: int) -> Genomes:
            return space.crossover_genomes(_drawn(parents, n, rng), _drawn(parents, n, rng), rng)

        bred: list[tuple[str, Genomes]] = []
        if len(parents):
            bred.append(("mutation", self._within(settings.mutations, mutated(parents), seen)))
            bred.append(("crossover", self._within(settings.crossovers, crossed, seen)))
        for draw in (lambda n: space.sample_genomes(n, rng), mutated(self.start), lambda n: self.start):
            short = settings.population - sum(len(genomes) for _, genomes in bred)
            bred.append(("random", self._within(short, draw, seen)))
        origins = [name for name, genomes in bred for _ in genomes]
        archs = [space.decode(genome) for _, genomes in bred for genome in genomes]
        return Generation(number, tuple(archs), tuple(origins))

    def _within(self, count: int, draw: Callable[[int], Genomes], seen: "_Seen") -> Genomes:
        """Return up to `count` new genomes within the budget, shape (N <= count, length)."""
        found = self.start[:0]
        for _ in range(DRAWS if count > 0 else 0):
            genomes = draw(OVERDRAW * (count - len(found)))
            inside = seen.new_ones(genomes[self.objective.excess(genomes) == 0])
            found = np.vstack([found, seen.take(inside[: count - len(found)])])
            if len(found) == count:
                break
        return found


class _Seen:
    """Genomes that were candidates already."""

    def __init__(self, space: SearchSpace, archs: Sequence[ArchConfig]) -> None:
        self.rows = {space.encode(arch).tobytes() for arch in archs}

    def new_ones(self, genomes: Genomes) -> Genomes:
        """Return those not seen, without repetition, in their order."""
        first = {genome.tobytes(): index for index, genome in reversed(list(enumerate(genomes)))}
        return genomes[sorted(index for row, index in first.items() if row not in self.rows)]

    def take(self, genomes: Genomes) -> Genomes:
        """Return the genomes; they count as seen from now on."""
        self.rows.update(genome.tobytes() for genome in genomes)
        return genomes


def _drawn(genomes: Genomes, count: int, rng: np.random.Generator) -> Genomes:
    return genomes[rng.integers(len(genomes), size=count)]
