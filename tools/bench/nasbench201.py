"""Queries until one of the best 1 % of NAS-Bench-201's cells is found: measured evolution beside random search.

    pip install -e '.[bench]'
    python tools/bench/nasbench201.py

NAS-Bench-201 (Dong & Yang 2020) has 15,625 cells of six edges with one of five operations; the package
analog-nasbench carries the CIFAR-10 accuracy of each. A query is the look-up of one cell, as a measurement would be;
the searcher is that of `ofa-kit search spos`. Random search draws without repetition. What it takes varies so much (a
tenth of its runs end within 11 queries) that a searcher is held against its median, and against the run with the same
seed for information. Exit code 1 when generations of 10 take fewer queries than random search's median in fewer than 9
of 10 seeds.
"""

import argparse
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.choices import ConvSpace, HeadSpace, StageSpace
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.spos_evolution import SposEvolution, SposSettings
from ofa_kit.search.budget import Budget, Objective

INSTALL = "the public package `analog-nasbench` is missing; install it with: pip install -e '.[bench]'"
OPERATIONS = {1: 1, 3: 0, 5: 4, 7: 3, 9: 2}
"""The package's number of each operation, by the kernel size that stands for it: none, skip, average pooling, 1x1 and
3x3 convolution, in the order of multiply-adds."""
EDGES = 6
TOP = 0.01
WINS = 0.9
RANDOM_RUNS = 2000
SEARCHERS = {
    "generations of 50, as published": SposSettings(generations=300),
    "generations of 10": SposSettings(population=10, generations=1500, parents=3, mutations=8, crossovers=2),
}
JUDGED = "generations of 10"


@dataclass(frozen=True)
class Benchmark:
    """The cells as a space of ours, and what each is worth."""

    space: SearchSpace
    top1: Mapping[tuple[int, ...], float]
    """Percent, by the numbers of the operations."""
    least: float
    """What the best 1 % have."""

    def query(self, arch: ArchConfig) -> float:
        """Return the top-1 of one cell."""
        return self.top1[tuple(OPERATIONS[kernel] for kernel in arch.stages[0].kernel_sizes)]


def main() -> int:
    """Search with each searcher and seed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--searchers", nargs="+", choices=list(SEARCHERS), default=list(SEARCHERS))
    arguments = parser.parse_args()
    benchmark = read_benchmark()
    values = np.array(list(benchmark.top1.values()))
    print(f"{len(values)} cells, best {values.max():.2f} %, best {TOP:.0%} from {benchmark.least:.2f} %")
    seeds = range(arguments.first_seed, arguments.first_seed + max(arguments.seeds, RANDOM_RUNS))
    random = [random_queries(values, benchmark.least, seed) for seed in seeds]
    usual = median(random)
    print(f"random search, {len(random)} seeds: mean {mean(random):.1f}, median {usual:.0f} queries")
    good = True
    for name in arguments.searchers:
        found = [queries(benchmark, replace(SEARCHERS[name], seed=seed)) for seed in seeds[: arguments.seeds]]
        below = sum(count < usual for count in found)
        paired = sum(count < other for count, other in zip(found, random, strict=False))
        print(
            f"{name}: mean {mean(found):.1f}, median {median(found):.0f} queries; below random's median in {below} of "
            f"{len(found)} seeds, below random of the same seed in {paired}",
            flush=True,
        )
        good &= name != JUDGED or below >= WINS * len(found)
    return 0 if good else 1


def read_benchmark() -> Benchmark:
    """Return the benchmark; exits with what to install when its package is missing."""
    try:
        from analognasbench import AnalogNASBench
    except ImportError as error:
        sys.exit(f"error: {INSTALL} ({error})")
    try:
        data = AnalogNASBench()
    except (pickle.UnpicklingError, OSError) as error:
        sys.exit(f"error: analog-nasbench cannot read its own data: {error}")
    cells = [tuple(map(int, cell)) for cell in data.list_available_architectures()]
    top1 = {cell: float(data.query_metric(cell, "baseline_accuracy")) for cell in cells}
    least = float(np.sort(list(top1.values()))[-round(TOP * len(top1))])
    return Benchmark(cell_space(), top1, least)


def cell_space() -> SearchSpace:
    """Return the cells as a space: the kernel size of a block stands for the operation on an edge."""
    edges = StageSpace(
        widths=(16,),
        depths=(EDGES,),
        kernel_sizes=tuple(OPERATIONS),
        expand_ratios=(1,),
        stride=1,
        activation="relu",
    )
    return SearchSpace(
        name="nasbench201-cells",
        resolutions=(32,),
        stages=(edges,),
        in_channels=3,
        num_classes=10,
        stem=(ConvSpace(widths=(16,), activation="relu"),),
        head=HeadSpace(activation="relu"),
    )


def random_queries(values: NDArray[np.float64], least: float, seed: int) -> int:
    """Return how many cells random search looks up until one has at least so much."""
    order = np.random.default_rng([201, seed]).permutation(len(values))
    return int(np.argmax(values[order] >= least)) + 1


def queries(benchmark: Benchmark, settings: SposSettings) -> int:
    """Return how many cells the evolution looks up until one is among the best; all where none is found."""
    space = benchmark.space

    def nothing(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.zeros(len(genomes))

    objective = Objective(space, Budget(), nothing, nothing)
    evolution = SposEvolution(objective=objective, start=space.encode(space.smallest())[None], settings=settings)
    measured: list[tuple[ArchConfig, float]] = []
    while asked := evolution.next(measured, 1):  # the generations bound it
        measured.append((asked[0], benchmark.query(asked[0])))
        if measured[-1][1] >= benchmark.least:
            return len(measured)
    return len(benchmark.top1)


if __name__ == "__main__":
    sys.exit(main())
