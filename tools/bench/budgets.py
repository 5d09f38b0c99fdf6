"""Six latency budgets of a trained run on a device of this machine, and what random subnets offer under each.

    ofa-kit profile --device cpu-ort --run RUN
    python tools/bench/budgets.py --run RUN --device cpu-ort --random 200

`specialize` answers every budget. Beside it stand random subnets, each recalibrated, validated and timed as the
candidates are, but kept out of the tables that `specialize` learns from (in OUT/random.csv: what a kill interrupts goes
on). Then the searches are compared on the same predictors at equal numbers of evaluations. Exit code 1 where a measured
latency is above its budget or a random subnet within it has a higher validation top-1.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS, ArchConfig
from ofa_kit.cli.show import open_run
from ofa_kit.commands.measure_accuracy import open_evaluator
from ofa_kit.commands.measure_engine import Measuring, open_engine, subnets_in_a_pass
from ofa_kit.commands.profile import TABLES, measure_in_sessions
from ofa_kit.commands.specialize import Specializer
from ofa_kit.errors import InfeasibleBudgetError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.progress import Terminal
from ofa_kit.search.budget import Budget, Objective
from ofa_kit.search.coarse_to_fine import CoarseToFine
from ofa_kit.search.evolution import Evolution
from ofa_kit.search.guided import Guided
from ofa_kit.search.ladder import Searcher
from ofa_kit.search.population import Counted
from ofa_kit.search.random_search import RandomSearch
from ofa_kit.training.measure_subnets import SubnetMeter, chunks_of
from ofa_kit.training.run import Run

COLUMNS = ("key", *ARCH_COLUMNS, "top1", "latency_ms")
LOWEST, HIGHEST = 1.15, 0.9
"""Budgets lie, evenly in their logarithm, between these times the smallest and the largest subnet's latency."""
CHUNK = 20
SEEDS = 3


@dataclass(frozen=True)
class Measured:
    """A random subnet: validation top-1 in percent, floor of its latency in milliseconds."""

    arch: ArchConfig
    top1: float
    latency_ms: float


def main() -> int:
    """Answer the budgets, measure the random subnets, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--device", default="cpu-ort")
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--random", type=int, default=200)
    parser.add_argument("--budgets", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("budgets"))
    arguments = parser.parse_args()
    run, device = open_run(arguments.run), DeviceProfile.load(arguments.device)
    specializer = Specializer.open(run, device, tables=arguments.tables, reporter=Terminal())
    random = random_subnets(run, device, arguments.random, arguments.seed, arguments.out / "random.csv")
    ends = measure_in_sessions(run.space, backend_for(device), [run.space.smallest(), run.space.largest()])[0]
    low_ms, high_ms = sorted(found.latency_ms for found in ends.values())
    budgets_ms = np.geomspace(LOWEST * low_ms, HIGHEST * high_ms, arguments.budgets)
    print(f"{run.name} on {device.name}: {len(specializer.trained.table.rows)} subnets with top-1 learned from")
    print("\n| budget ms | latency predicted | measured | top-1 predicted | validation, measured | test, measured |"
          f" best of {len(random)} random: validation | latency measured | fit |\n|{'---|' * 9}")  # fmt: skip
    missed = [line for ms in budgets_ms for line in answered(specializer, float(ms), random, arguments.out)]
    print("\n| budget ms | search | evaluations | top-1 predicted, median of seeds (range) |\n|---|---|---|---|")
    for ms in budgets_ms:
        at_equal_evaluations(specializer, float(ms))
    print("\n".join(["", *missed] if missed else ["", "every target is met"]))
    return bool(missed)


def random_subnets(run: Run, device: DeviceProfile, count: int, seed: int, path: Path) -> list[Measured]:
    """Return random subnets with both measurements, those of an earlier call from the file."""
    rng = np.random.default_rng(seed)
    archs = list({arch.key: arch for arch in (run.space.sample(rng) for _ in range(count))}.values())
    known = {row["key"] for row in storage.read_rows(path, COLUMNS)} if path.exists() else set()
    missing = [arch for arch in archs if arch.key not in known]
    supernet, _ = run.load_supernet()
    evaluator, backend = open_evaluator(run), backend_for(device)
    meter = SubnetMeter.of(supernet, evaluator, "pytorch")
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        times = measure_in_sessions(run.space, backend, part)[0]
        correct: dict[str, int] = {}
        with open_engine(Measuring(), meter, len(part)) as engine:
            size = subnets_in_a_pass(meter, len(part), engine.width)
            for chunk, counts in engine.measure(chunks_of(run.space, part, size)):
                correct |= {arch.key: found for arch, found in zip(chunk, counts, strict=True)}
        rows = [
            {
                "key": arch.key,
                **arch.to_row(),
                "top1": f"{100 * correct[arch.key] / evaluator.validation_count:.4f}",
                "latency_ms": f"{times[arch].latency_ms:.6f}",
            }
            for arch in part
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.append_rows(path, COLUMNS, rows)
        print(f"random subnets: {len(known) + start + len(part)} of {len(archs)}", file=sys.stderr, flush=True)
    wanted = {arch.key for arch in archs}
    return [
        Measured(ArchConfig.from_row(row), float(row["top1"]), float(row["latency_ms"]))
        for row in storage.read_rows(path, COLUMNS)
        if row["key"] in wanted
    ]


def answered(specializer: Specializer, budget_ms: float, random: Sequence[Measured], out: Path) -> list[str]:
    """Print one budget beside the best random subnet within it; return what was missed."""
    fitting = [found for found in random if found.latency_ms <= budget_ms]
    best = max(fitting, key=lambda found: found.top1, default=None)
    beside = f"{best.top1:.2f} % | {best.latency_ms:.4f}" if best else "none | "
    try:
        made = specializer.specialize(Budget(latency_ms=budget_ms), out / f"within-{1000 * budget_ms:.0f}-us")
    except InfeasibleBudgetError as error:
        print(f"| {budget_ms:.4f} | {error} | | | | | {beside} | {len(fitting)} |", flush=True)
        return [f"missed at {budget_ms:.4f} ms: nothing was found"]
    measured, predicted = made.measured, made.predicted
    said = f"{budget_ms:.4f} | {predicted['latency_ms']:.4f} | {measured['latency_ms']:.4f} | {predicted['top1']:.2f} %"
    said += f" | {measured['validation_top1']:.2f} % | {measured['test_top1_onnx']:.2f} %"
    print(f"| {said} | {beside} | {len(fitting)} |", flush=True)
    missed = []
    if measured["latency_ms"] > budget_ms:
        missed.append(f"missed at {budget_ms:.4f} ms: measured {measured['latency_ms']:.4f} ms")
    if best and measured["validation_top1"] < best.top1:
        missed.append(
            f"missed at {budget_ms:.4f} ms: top-1 {measured['validation_top1']:.2f} %, a random one {best.top1:.2f} %"
        )
    return missed


def at_equal_evaluations(specializer: Specializer, budget_ms: float) -> None:
    """Print what each search finds with as many evaluations as the coarse-to-fine search takes."""
    _, limit = judged(specializer, CoarseToFine(), budget_ms, 0)
    searchers: dict[str, Searcher] = {
        "coarse-to-fine": CoarseToFine(),
        "evolution": Evolution(generations=max(1, limit // Evolution().population - 1)),
        "guided": Guided(),
        "random": RandomSearch(samples=limit),
    }
    for name, searcher in searchers.items():
        found, counts = zip(*(judged(specializer, searcher, budget_ms, seed) for seed in range(SEEDS)), strict=True)
        print(
            f"| {budget_ms:.4f} | {name} | {int(np.median(counts))} | {np.median(found):.3f} % "
            f"({min(found):.3f}..{max(found):.3f}) |",
            flush=True,
        )


def judged(specializer: Specializer, searcher: Searcher, budget_ms: float, seed: int) -> tuple[float, int]:
    """Return the predicted top-1 that a search finds and how many genomes it asked about."""
    counted = Counted(specializer.trained.predictor.predict_top1)
    goal = Objective(
        specializer.space, Budget(latency_ms=budget_ms), counted, specializer.sites[0].predictor.predict_ms
    )
    return searcher.search(goal, np.random.default_rng(seed))[0].predicted_top1, counted.genomes


if __name__ == "__main__":
    sys.exit(main())
