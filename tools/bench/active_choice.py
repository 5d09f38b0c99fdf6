"""Whether choosing subnets actively teaches the accuracy predictor more than choosing at random.

    python tools/bench/active_choice.py --run runs/methods/seed0/sandwich --pool 600 --seeds 10

First the run gets rows for a pool of subnets, as by `ofa-kit measure-accuracy --subnets 600`; what a kill interrupts
goes on. Then, for each seed, a part of the pool is held out, both choices start from the same random subnets, and
each goes on to 100 with the rows that the pool has. The predictor learns from either and is judged on what was held
out. Exit code 1 when the active choice has the lower RMSE in fewer than 7 of 10 seeds.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.measure_accuracy import measure_accuracy
from ofa_kit.predictors import scores
from ofa_kit.predictors.accuracy import AccuracyPredictor
from ofa_kit.progress import Terminal
from ofa_kit.search.active import ROUND, START, choose, front_at
from ofa_kit.training.run import Run

HELD_OUT = 200
WINS = 0.7
NEAR_FRONT = 0.2
"""Share of the held-out subnets, those that fall least short of the best as cheap, that are also judged alone."""

Row = tuple[ArchConfig, float]


@dataclass(frozen=True)
class Judged:
    """RMSE in points of a predictor on held-out subnets, and on those of them near the Pareto front."""

    everywhere: float
    near_front: float


def main() -> int:
    """Measure the pool where it is missing, replay the choices and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--pool", type=int, default=600)
    parser.add_argument("--subnets", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    pool = list(measure_accuracy(run, arguments.pool, reporter=Terminal()).rows.values())
    print(f"{len(pool)} subnets of {run.space.name} measured; RMSE in points after {arguments.subnets} of them")
    print(f"{'seed':>4}  {'random':>7} {'active':>7}   near the front: {'random':>7} {'active':>7}")
    random, active = [], []
    for seed in range(arguments.seeds):
        for found, is_active in ((random, False), (active, True)):
            found.append(replay(run.space, pool, arguments.subnets, seed, active=is_active))
        pair = random[-1], active[-1]
        everywhere, front = (
            " ".join(f"{getattr(j, name):7.3f}" for j in pair) for name in ("everywhere", "near_front")
        )
        print(f"{seed:4}  {everywhere}   {'':15} {front}", flush=True)
    return report(random, active)


def replay(space: SearchSpace, pool: Sequence[Row], subnets: int, seed: int, *, active: bool) -> Judged:
    """Return how well the predictor does after so many subnets, chosen at random or actively."""
    order = np.random.default_rng(seed).permutation(len(pool))
    held_out, rest = [pool[i] for i in order[:HELD_OUT]], [pool[i] for i in order[HELD_OUT:]]
    chosen = rest[:START] if active else rest[:subnets]
    top1_of = {arch.key: top1 for arch, top1 in rest}
    cost, candidates = partial(macs_of, space), genomes_of(space, rest)
    while len(chosen) < subnets:  # each round adds at least one
        predictor = AccuracyPredictor.fit(space, chosen)
        found = choose(space, predictor, cost, chosen, candidates, min(ROUND, subnets - len(chosen)))
        chosen = [*chosen, *((arch, top1_of[arch.key]) for arch in found)]
    return judge(space, AccuracyPredictor.fit(space, chosen), held_out)


def judge(space: SearchSpace, predictor: AccuracyPredictor, held_out: Sequence[Row]) -> Judged:
    """Return the errors of a predictor on subnets that it has not seen."""
    genomes, top1 = genomes_of(space, held_out), np.array([value for _, value in held_out])
    costs, predicted = macs_of(space, genomes), predictor.predict_top1(genomes)
    short = front_at(costs, top1, costs) - top1
    near = short <= np.quantile(short, NEAR_FRONT)
    return Judged(scores.rmse(predicted, top1), scores.rmse(predicted[near], top1[near]))


def genomes_of(space: SearchSpace, rows: Sequence[Row]) -> Genomes:
    """Return the genomes of measured subnets, shape (N, genome_length)."""
    return np.stack([space.encode(arch) for arch, _ in rows])


def report(random: Sequence[Judged], active: Sequence[Judged]) -> int:
    """Print who won; return 1 when the active choice does not help."""
    n = len(random)
    for what in ("everywhere", "near_front"):
        before, after = ([getattr(judged, what) for judged in found] for found in (random, active))
        won = sum(b > a for b, a in zip(before, after, strict=True))
        differences = [b - a for b, a in zip(before, after, strict=True)]
        error = np.std(differences, ddof=1) / math.sqrt(n) if n > 1 else math.nan
        print(
            f"{what.replace('_', ' ')}: random {mean(before):.3f}, active {mean(after):.3f} points; active wins {won} "
            f"of {n}; gain {mean(differences):+.3f} +- {error:.3f}"
        )
        if what == "everywhere":
            helps = won >= WINS * n
    print(
        "active choice helps" if helps else f"active choice does NOT help: it wins fewer than {WINS:.0%} of the seeds"
    )
    return 0 if helps else 1


if __name__ == "__main__":
    sys.exit(main())
