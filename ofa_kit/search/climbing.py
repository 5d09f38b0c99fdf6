"""Climbing: steepest ascent under single changes and pairs of them, to a local optimum that is proven.

A pair can be worth more than its parts where one change frees budget for the other. Pairs are tried in the order of the
sum of what each is worth alone, in chunks; the optimum is proven when no pair within budget is left that scores more.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import Genomes
from ofa_kit.search.budget import Objective, Values
from ofa_kit.search.moves import Moves, moves_of

MOST_STEPS = 500
CHUNK = 1024
KEPT = 8
"""Best neighbours of a step that are handed back."""


def climb(objective: Objective, genome: NDArray[np.int64], *, pairs: bool = True, enough: float = math.inf) -> Genomes:
    """Return the best genomes that steepest ascent has met, (N, length); the last is the optimum.

    It ends early at a score of `enough`.
    """
    moves, met = moves_of(objective.space), list[Genomes]()
    score = float(objective.score(genome[None])[0])
    for _ in range(MOST_STEPS):
        if score >= enough:
            break
        changes, near = moves.of(genome)
        scores = objective.score(near)
        met.append(near[np.argsort(-scores, kind="stable")[:KEPT]])
        best = int(np.argmax(scores)) if len(near) else 0
        if len(near) and scores[best] > score:
            genome, score = near[best], float(scores[best])
            continue
        better = better_pair(objective, moves, genome, changes, score) if pairs else None
        if better is None:
            break
        genome, score = better
    return np.vstack([*met, genome[None]])


def better_pair(
    objective: Objective, moves: Moves, genome: NDArray[np.int64], changes: NDArray[np.int64], score: float
) -> tuple[NDArray[np.int64], float] | None:
    """Return the best of the first chunk of pairs that holds a better genome, with its score; None when none does."""
    near = moves.apply(np.repeat(genome[None], len(changes), axis=0), changes)
    worth = _worth(objective, near)
    first, second = np.triu_indices(len(changes), k=1)
    order = np.argsort(-(worth[first] + worth[second]), kind="stable")
    first, second = first[order], second[order]
    for start in range(0, len(order), CHUNK):
        part = slice(start, start + CHUNK)
        far = moves.apply(near[first[part]], changes[second[part]])
        scores = objective.score(far)
        best = int(np.argmax(scores))
        if scores[best] > score:
            return far[best], float(scores[best])
    return None


def _worth(objective: Objective, genomes: Genomes) -> Values:
    """Return what genomes would be worth were there no limits, shape (N,)."""
    if objective.budget.min_top1 is None:
        return objective.predict_top1(genomes)
    return -objective.predict_latency_ms(genomes)
