"""DARTS or ENAS against random cells: search, derive, retrain alike; and what a latency term does to the latency.

    python tools/bench/cell_search.py darts imagefolder:PATH --search-minutes 20 --train-minutes 10 --random 5 --seeds 2

For each seed cells are searched without and with a latency term (target: a share of the first result's predicted
latency; ENAS: no reward above it) and their networks retrained by the same recipe, for the same epochs, as those of
cells drawn uniformly. The minutes are turned into epochs once, by timing steps here (plan.json). Every stage (--task
plan, search, train) resumes what a kill interrupted; --task table prints what is finished. top-1 is that of all test
images; latency is measured, all networks side by side.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from ofa_kit.cli.values import read_values
from ofa_kit.commands.cells_found import CellsFound, open_times
from ofa_kit.commands.search_darts import network_shape, search_darts
from ofa_kit.commands.search_enas import search_enas
from ofa_kit.commands.train_cells import train_cells
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.data.sources import open_dataset
from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS, Genotype
from ofa_kit.nas.cells.measured import network_bytes, network_name
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.cells.recipe import CellsRecipe
from ofa_kit.nas.cells.sampling import random_genotype, random_micro_genotype
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.cells.training import CellTraining
from ofa_kit.nas.darts.recipe import DartsRecipe
from ofa_kit.nas.darts.search import Search
from ofa_kit.nas.enas.micro_recipe import MicroRecipe
from ofa_kit.nas.enas.micro_search import MicroSearch
from ofa_kit.progress import Terminal
from ofa_kit.storage import write_text

TIMED_STEPS = 8
KINDS = ("plain", "latency", "random")
CYCLES = 15
"""ENAS's rate falls 4 times, each time twice as long as before: 1 + 2 + 4 + 8 parts."""


@dataclass(frozen=True)
class Method:
    """A search of cells, with what differs between them."""

    recipe: Any
    work: Any
    search: Callable[..., Any]
    shape: Callable[[Any, DatasetInfo], CellNetworkShape]
    random: Callable[[int, torch.Generator], Genotype]
    small: str
    """The recipe for small machines."""
    latency: Mapping[str, Any]
    """What a recipe has, beside a target, for the latency to count."""


METHODS = {
    "darts": Method(
        DartsRecipe,
        Search,
        search_darts,
        network_shape,
        lambda nodes, generator: random_genotype(nodes, DARTS_OPERATIONS, generator),
        "darts-small",
        {"latency_weight": 1.0},
    ),
    "enas": Method(
        MicroRecipe,
        MicroSearch,
        search_enas,
        MicroRecipe.network_shape,
        random_micro_genotype,
        "enas-micro-small",
        {"latency_hard": True},
    ),
}


@dataclass(frozen=True)
class Plan:
    """What minutes mean on this machine."""

    search_epochs: int
    train_epochs: int
    search_epoch_s: float
    train_epoch_s: float


def main() -> None:
    """Read the command line and do what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=list(METHODS))
    parser.add_argument("data")
    parser.add_argument("--task", choices=["all", "plan", "search", "train", "table"], default="all")
    parser.add_argument("--runs", type=Path, default=Path("runs/cell-search"))
    parser.add_argument("--search-minutes", type=float, default=20)
    parser.add_argument("--train-minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--random", type=int, default=5, help="random cells")
    parser.add_argument("--device", default="cpu-ort")
    parser.add_argument("--target-share", type=float, default=0.7, help="of the plain result's predicted latency")
    parser.add_argument("--search-recipe", help="default: the method's for small machines")
    parser.add_argument("--train-recipe", default="cells-small")
    parser.add_argument("--search-set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--train-set", action="append", default=[], metavar="KEY=VALUE")
    bench = Bench(parser.parse_args())
    if bench.given.task == "table":
        print(bench.table())
        return
    prepare_torch()
    plan = bench.plan()
    print(f"plan: {plan}", flush=True)
    if bench.given.task in ("all", "search", "train"):
        found = bench.searched(plan)
        if bench.given.task != "search":
            bench.train(plan, found)
            print(bench.table())


class Bench:
    """The stages, each in a folder of its own."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder, self.method = given, given.runs, METHODS[given.method]
        source = given.search_recipe or self.method.small
        common = {"data": given.data, "device": given.device}
        self.search_values, _ = read_values(source, common, given.search_set)
        own = {"data": given.data, "genotype": "darts-v2"}
        self.train_values, _ = read_values(given.train_recipe, own, given.train_set)
        self.recipe = self.method.recipe.parse(self.search_values, source)
        self.dataset = open_dataset(given.data, photo_size=self.recipe.image_size)
        self.shape = self.method.shape(self.recipe, self.dataset.info)
        shared = {"cells": self.shape.cells, "channels": self.shape.channels, "layout": self.shape.layout}
        self.train_values |= shared

    def plan(self) -> Plan:
        """Turn minutes into epochs by the time of a few steps, once."""
        path = self.folder / "plan.json"
        if path.exists():
            return Plan(**json.loads(path.read_text(encoding="utf-8")))
        search = self.method.work(self.recipe, self.dataset, self.folder, torch.device("cpu"))
        search_s = epoch_time_s(search)
        recipe = CellsRecipe.parse(self.train_values, "train")
        trainings = (
            CellTraining(recipe, genotype, self.dataset, self.folder, torch.device("cpu"))
            for genotype in self.random_cells()[:3]
        )
        train_s = mean(epoch_time_s(training) for training in trainings)
        plan = Plan(
            search_epochs=epochs_in(self.given.search_minutes, search_s),
            train_epochs=epochs_in(self.given.train_minutes, train_s),
            search_epoch_s=round(search_s, 2),
            train_epoch_s=round(train_s, 2),
        )
        write_text(path, json.dumps(vars(plan), indent=2) + "\n")
        return plan

    def random_cells(self) -> list[Genotype]:
        """Return the random cells, the same ones each time."""
        generator = torch.Generator().manual_seed(12345)
        return [self.method.random(self.recipe.nodes, generator) for _ in range(max(3, self.given.random))]

    def searched(self, plan: Plan) -> dict[str, Genotype]:
        """Search without and with the latency term, each seed; return genotypes by the names of their runs."""
        found = {}
        for seed in range(self.given.seeds):
            values = {**self.search_values, **epochs_of(self.recipe, plan.search_epochs), "seed": seed}
            plain = self.search(values, f"search-plain-{seed}")
            assert isinstance(plain, CellsFound)
            assert plain.latency_ms_predicted is not None
            target_ms = round(self.given.target_share * plain.latency_ms_predicted, 4)
            values |= {**self.method.latency, "latency_target_ms": target_ms}
            fast = self.search(values, f"search-latency-{seed}")
            found |= {f"plain-{seed}": plain.genotype, f"latency-{seed}": fast.genotype}
        return found

    def search(self, values: dict[str, Any], name: str) -> Any:
        """Search in a folder; operations are timed in the first one, and all others share what they take."""
        first, folder = self.folder / "search-plain-0", self.folder / name
        for path in first.glob("times-*"):
            if not (folder / path.name).exists():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder)
        return resumed(self.method.search, values, folder)

    def train(self, plan: Plan, found: dict[str, Genotype]) -> None:
        """Retrain all networks alike, and time them side by side."""
        for number, genotype in enumerate(self.random_cells()[: self.given.random]):
            found[f"random-{number}"] = genotype
        for name, genotype in found.items():
            values = {**self.train_values, "epochs": plan.train_epochs, "seed": int(name.split("-")[1])}
            resumed(train_cells, {**values, "genotype": write_genotype(genotype)}, self.folder / f"train-{name}")
        times, shape = open_times(self.folder, self.given.device), self.shape
        batch = times.backend.profile.batch
        times.measure({network_name(shape, g): network_bytes(shape, g, batch) for g in found.values()}, Terminal(60))

    def table(self) -> str:
        """Return markdown of all finished networks: measured top-1 and latency, mean and spread of each kind."""
        times, shape = open_times(self.folder, self.given.device), self.shape
        lines = [
            "| cells | test top-1 % | latency ms | M params | M MACs | skips |",
            "|---|---|---|---|---|---|",
        ]
        top1: dict[str, list[float]] = {kind: [] for kind in KINDS}
        latency_ms: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for path in sorted(self.folder.glob("train-*/result.json")):
            name = path.parent.name.removeprefix("train-")
            done = train_cells({}, path.parent, resume=True)
            genotype = read_genotype(done.text)
            key = network_name(shape, genotype)
            found_ms = times.of(key).latency_ms if key in times.sessions else math.nan
            top1[name.split("-")[0]].append(done.test_top1)
            latency_ms[name.split("-")[0]].append(found_ms)
            lines.append(
                f"| {name} | {done.test_top1:.2f} | {found_ms:.4f} | {done.params / 1e6:.3f} | {done.macs / 1e6:.1f} | "
                f"{genotype.normal.skips} |"
            )
        for kind in KINDS:
            if top1[kind]:
                lines.append(
                    f"| **{kind}**, n = {len(top1[kind])} | {spread(top1[kind])} | {spread(latency_ms[kind])} ||||"
                )
        return "\n".join(lines)


def resumed(command: Callable[..., Any], values: dict[str, Any], folder: Path) -> Any:
    """Run a command to its end, from where it stands."""
    print(f"{folder.name}:", flush=True)
    begun = (folder / "config.yaml").exists()
    return command({} if begun else values, folder, resume=begun, reporter=Terminal(60))


def epoch_time_s(work: Any) -> float:
    """Return about how long an epoch takes: steps that learn weights and, in ENAS, those of the controller."""
    child_steps = getattr(work, "child_steps", work.steps_per_epoch)
    parts = [range(child_steps), range(child_steps, work.steps_per_epoch)]
    return sum(len(steps) * step_time_s(work, steps) for steps in parts if steps)


def step_time_s(work: Any, steps: range) -> float:
    """Return the mean time of the first few of these steps with their batches, a first one left out."""
    batches, found = iter(work.batches(0, steps[0])), []
    for step in steps[: TIMED_STEPS + 1]:
        start_s = time.perf_counter()
        work.step(next(batches), 0, step)
        found.append(time.perf_counter() - start_s)
    return mean(found[1:] or found)


def epochs_of(recipe: Any, epochs: int) -> dict[str, int]:
    """Return the recipe's keys for so many epochs; ENAS's end where its rate has fallen."""
    if not isinstance(recipe, MicroRecipe):
        return {"epochs": epochs}
    first = max(1, round(epochs / CYCLES))
    return {"epochs": CYCLES * first, "restart_epochs": first, "restart_factor": 2}


def epochs_in(minutes: float, epoch_s: float) -> int:
    """Return the epochs that fit, two at least."""
    return max(2, round(60 * minutes / epoch_s))


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
