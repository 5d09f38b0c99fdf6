"""Populations of genomes: without repetition, best first, and counted where a predictor sees them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import Genomes
from ofa_kit.search.budget import Candidate, Objective, Predict, Values

KEY = np.random.default_rng(0).integers(1, 2**62, size=1024) * 2 + 1


def keys_of(genomes: Genomes) -> NDArray[np.int64]:
    """Return one number for each genome, shape (N,): different ones collide with a chance of about 2^-62."""
    return np.asarray((genomes + 2) @ KEY[: genomes.shape[1]])


def different(genomes: Genomes) -> Genomes:
    """Return genomes without repetition, in the order of their first appearance."""
    return genomes[np.sort(np.unique(keys_of(genomes), return_index=True)[1])]


def best_of(genomes: Genomes, score: Values, count: int) -> NDArray[np.int64]:
    """Return the indices of the `count` best different genomes, best first."""
    order = np.argsort(-score, kind="stable")
    first = np.sort(np.unique(keys_of(genomes[order]), return_index=True)[1])
    return np.asarray(order[first[:count]])


@dataclass
class Counted:
    """A predictor that counts the genomes it is asked about: what searches are compared by."""

    predict: Predict
    genomes: int = 0

    def __call__(self, genomes: Genomes) -> Values:
        self.genomes += len(genomes)
        return self.predict(genomes)


def best_candidates(objective: Objective, genomes: Genomes, top: int) -> list[Candidate]:
    """Return the `top` best different genomes within budget with their predictions, best first."""
    score = objective.score(genomes)
    best = best_of(genomes, score, top)
    return objective.candidates(genomes[best[score[best] >= 0]])
