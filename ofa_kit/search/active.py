"""Which subnets to measure next: a spread over the space, or those that the accuracy predictor learns most from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import accuracy_features
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.selection import stratified_subnets
from ofa_kit.arch.space import SearchSpace
from ofa_kit.predictors.accuracy import AccuracyPredictor

Values = NDArray[np.float64]
Cost = Callable[[Genomes], Values]
"""What a subnet costs, such as its MACs or its predicted latency, shape (N,)."""
Measured = Sequence[tuple[ArchConfig, float]]
"""Subnets with their top-1 in percent, in the order in which they were measured."""
START = 16
"""Subnets spread over the space before a predictor is asked."""
ROUND = 16
"""Subnets chosen with one predictor."""
FRONT_SHARE = 0.25
"""Share of a round that looks for better subnets; the rest teaches the predictor."""
SAMPLES, GENERATIONS, STRATA, CHILDREN = 1000, 5, 32, 8
"""Random candidates; then, in each generation, children of the best candidate of each stratum of costs."""
NOISE = 2.0
"""Variance of a measurement that features do not explain, in units of the prior variance of one feature's effect."""


class Choice(Protocol):
    """Chooses what to measure."""

    def next(self, measured: Measured, count: int) -> list[ArchConfig]:
        """Return up to `count` different subnets that are not measured; none where no more are found."""
        ...


@dataclass(frozen=True)
class SpreadChoice:
    """The first subnets of a stratified sequence that are not measured."""

    space: SearchSpace

    def next(self, measured: Measured, count: int) -> list[ArchConfig]:
        known = {arch.key for arch, _ in measured}
        wanted = stratified_subnets(self.space, count + len(known))
        return [arch for arch in wanted if arch.key not in known][:count]


@dataclass(frozen=True, kw_only=True)
class ActiveChoice:
    """A small spread, then rounds: most of each where measuring teaches most, the rest near the predicted front.

    A round is chosen from the rows before it, so one that was broken off is chosen again and completed: the subnets
    measured in the end do not depend on interruptions.
    """

    space: SearchSpace
    cost: Cost
    """What the Pareto front trades top-1 for."""
    seed: int = 0

    def next(self, measured: Measured, count: int) -> list[ArchConfig]:
        if len(measured) < START:
            return SpreadChoice(self.space).next(measured, min(count, START - len(measured)))
        begun = (len(measured) - START) % ROUND
        before = sorted(measured[: len(measured) - begun], key=lambda row: row[0].key)  # processes end in any order
        predictor = AccuracyPredictor.fit(self.space, before)
        candidates = self._candidates(predictor, np.random.default_rng([self.seed, len(before)]))
        chosen = choose(self.space, predictor, self.cost, before, candidates, ROUND)
        known = {arch.key for arch, _ in measured}
        return [arch for arch in chosen if arch.key not in known][: min(count, ROUND - begun)]

    def _candidates(self, predictor: AccuracyPredictor, rng: np.random.Generator) -> Genomes:
        """Return genomes of the whole space, and as many that evolved towards the predicted front."""
        genomes = self.space.sample_genomes(SAMPLES, rng)
        for _ in range(GENERATIONS):
            best = best_of_strata(predictor.predict(genomes)[0], self.cost(genomes), STRATA)
            children = self.space.mutate_genomes(np.repeat(genomes[best], CHILDREN, axis=0), rng)
            genomes = np.unique(np.vstack([genomes, children]), axis=0)
        return genomes


def choose(
    space: SearchSpace, predictor: AccuracyPredictor, cost: Cost, measured: Measured, candidates: Genomes, count: int
) -> list[ArchConfig]:
    """Return up to `count` of the candidates to measure after those from which the predictor learned."""
    known = np.stack([space.encode(arch) for arch, _ in measured])
    rows = {genome.tobytes() for genome in known}
    candidates = candidates[[genome.tobytes() not in rows for genome in candidates]]
    if not len(candidates):
        return []
    top1, half_width = predictor.predict(candidates)
    front_top1 = front_at(cost(known), np.array([top1 for _, top1 in measured]), cost(candidates))
    front = best_of_strata(top1 + half_width - front_top1, cost(candidates), round(FRONT_SHARE * count))
    others = np.setdiff1d(np.arange(len(candidates)), front)
    taught = np.vstack([known, candidates[front]])
    taken = most_informative(space, taught, candidates[others], half_width[others] ** 2, count - len(front))
    return [space.decode(genome) for genome in candidates[[*front, *others[taken]]]]


def front_at(known_costs: Values, known_top1: Values, costs: Values) -> Values:
    """Return the best known top-1 at no more than each cost; the lowest known one where nothing is as cheap."""
    order = np.argsort(known_costs, kind="stable")
    best = np.concatenate([[known_top1.min()], np.maximum.accumulate(known_top1[order])])
    return np.asarray(best[np.searchsorted(known_costs[order], costs, side="right")])


def best_of_strata(values: Values, costs: Values, strata: int) -> list[int]:
    """Return the index of the largest value in each of some equally large parts of the order by cost."""
    parts = np.array_split(np.argsort(costs, kind="stable"), max(1, strata))
    return [int(part[np.argmax(values[part])]) for part in parts[:strata] if len(part)]


def most_informative(
    space: SearchSpace, known: Genomes, candidates: Genomes, importance: Values, count: int
) -> list[int]:
    """Return the candidates whose measurement leaves the smallest expected error of a line over all candidates.

    An optimal design (Cohn, Ghahramani & Jordan 1996) on the predictor's features; `importance` (N,) says how much
    the squared error at each candidate counts. It is chosen greedily, each one with those before it known.
    """
    features = accuracy_features(space, np.vstack([known, candidates]))
    features = np.hstack([features - features.mean(0), np.ones((len(features), 1))])
    taught, asked = features[: len(known)], features[len(known) :]
    covariance = asked @ np.linalg.solve(np.eye(features.shape[1]) + taught.T @ taught / NOISE, asked.T)
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        with_noise = np.diag(covariance) + NOISE
        gain = covariance**2 @ importance / with_noise
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        covariance -= np.outer(covariance[:, best], covariance[:, best]) / with_noise[best]
    return chosen
