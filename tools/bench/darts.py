"""DARTS against random cells: search, derive, retrain alike; and what a latency term does to the measured latency.

    python tools/bench/darts.py imagefolder:PATH --search-minutes 20 --train-minutes 10 --random 5 --seeds 2

For each seed cells are searched without and with a latency term (target: a share of the first result's predicted
latency) and their networks retrained by the same recipe, for the same epochs, as those of random cells. The minutes are
turned into epochs once, by timing steps here (plan.json). Every stage (--task plan, search, train) resumes what a kill
interrupted; --task table prints what is finished. top-1 is that of all test images; latency is measured, all networks
side by side.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from ofa_kit.cli.values import read_values
from ofa_kit.commands.cells_found import CellsFound, open_times
from ofa_kit.commands.search_darts import network_shape, search_darts
from ofa_kit.commands.train_cells import train_cells
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.sources import open_dataset
from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS, Genotype
from ofa_kit.nas.cells.measured import network_bytes, network_name
from ofa_kit.nas.cells.recipe import CellsRecipe
from ofa_kit.nas.cells.sampling import random_genotype
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.cells.training import CellTraining
from ofa_kit.nas.darts.recipe import DartsRecipe
from ofa_kit.nas.darts.search import Search
from ofa_kit.progress import Terminal
from ofa_kit.storage import write_text

TIMED_STEPS = 4
KINDS = ("plain", "latency", "random")


@dataclass(frozen=True)
class Plan:
    """What minutes mean on this machine."""

    search_epochs: int
    train_epochs: int
    search_step_s: float
    train_step_s: float


def main() -> None:
    """Read the command line and do what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--task", choices=["all", "plan", "search", "train", "table"], default="all")
    parser.add_argument("--runs", type=Path, default=Path("runs/darts"))
    parser.add_argument("--search-minutes", type=float, default=20)
    parser.add_argument("--train-minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--random", type=int, default=5, help="random cells")
    parser.add_argument("--device", default="cpu-ort")
    parser.add_argument("--target-share", type=float, default=0.7, help="of the plain result's predicted latency")
    parser.add_argument("--latency-weight", type=float, default=1.0)
    parser.add_argument("--search-recipe", default="darts-small")
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
        self.given, self.folder = given, given.runs
        common = {"data": given.data, "device": given.device}
        self.search_values, _ = read_values(given.search_recipe, common, given.search_set)
        own = {"data": given.data, "genotype": "darts-v2"}
        self.train_values, _ = read_values(given.train_recipe, own, given.train_set)
        recipe = DartsRecipe.parse(self.search_values, given.search_recipe)
        self.train_values |= {"cells": recipe.network_cells, "channels": recipe.network_channels}
        self.nodes = recipe.nodes

    def plan(self) -> Plan:
        """Turn minutes into epochs by the time of a few steps, once."""
        path = self.folder / "plan.json"
        if path.exists():
            return Plan(**json.loads(path.read_text(encoding="utf-8")))
        search_recipe = DartsRecipe.parse(self.search_values, "search")
        dataset = open_dataset(self.given.data, photo_size=search_recipe.image_size)
        search = Search(search_recipe, dataset, self.folder, torch.device("cpu"))
        search_s = step_time_s(search)
        train_recipe, train_s = CellsRecipe.parse(self.train_values, "train"), []
        for genotype in self.random_cells()[:3]:
            training = CellTraining(train_recipe, genotype, dataset, self.folder, torch.device("cpu"))
            train_s.append(step_time_s(training))
        plan = Plan(
            search_epochs=epochs_in(self.given.search_minutes, search_s * search.steps_per_epoch),
            train_epochs=epochs_in(self.given.train_minutes, mean(train_s) * training.steps_per_epoch),
            search_step_s=round(search_s, 4),
            train_step_s=round(mean(train_s), 4),
        )
        write_text(path, json.dumps(vars(plan), indent=2) + "\n")
        return plan

    def random_cells(self) -> list[Genotype]:
        """Return the random cells, the same ones each time."""
        generator = torch.Generator().manual_seed(12345)
        return [random_genotype(self.nodes, DARTS_OPERATIONS, generator) for _ in range(max(3, self.given.random))]

    def searched(self, plan: Plan) -> dict[str, Genotype]:
        """Search without and with the latency term, each seed; return genotypes by the names of their runs."""
        found = {}
        for seed in range(self.given.seeds):
            values = {**self.search_values, "epochs": plan.search_epochs, "seed": seed}
            plain = self.search(values, f"search-plain-{seed}")
            assert isinstance(plain, CellsFound)
            assert plain.latency_ms_predicted is not None
            target_ms = round(self.given.target_share * plain.latency_ms_predicted, 4)
            values |= {"latency_weight": self.given.latency_weight, "latency_target_ms": target_ms}
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
        return resumed(search_darts, values, folder)

    def train(self, plan: Plan, found: dict[str, Genotype]) -> None:
        """Retrain all networks alike, and time them side by side."""
        for number, genotype in enumerate(self.random_cells()[: self.given.random]):
            found[f"random-{number}"] = genotype
        for name, genotype in found.items():
            values = {**self.train_values, "epochs": plan.train_epochs, "seed": int(name.split("-")[1])}
            resumed(train_cells, {**values, "genotype": write_genotype(genotype)}, self.folder / f"train-{name}")
        shape = self.shape()
        times = open_times(self.folder, self.given.device)
        batch = times.backend.profile.batch
        times.measure({network_name(shape, g): network_bytes(shape, g, batch) for g in found.values()}, Terminal(60))

    def shape(self) -> Any:
        """Return the shape of the retrained networks."""
        recipe = DartsRecipe.parse(self.search_values, "search")
        return network_shape(recipe, open_dataset(self.given.data, photo_size=recipe.image_size).info)

    def table(self) -> str:
        """Return markdown of all finished networks: measured top-1 and latency, mean and spread of each kind."""
        times, shape = open_times(self.folder, self.given.device), self.shape()
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
    return command(values, folder, resume=(folder / "config.yaml").exists(), reporter=Terminal(60))


def step_time_s(work: Any) -> float:
    """Return the least time of a few steps with their batches."""
    found, batches = [], iter(work.batches(0, 0))
    for step in range(min(TIMED_STEPS, work.steps_per_epoch)):
        start_s = time.perf_counter()
        work.step(next(batches), 0, step)
        found.append(time.perf_counter() - start_s)
    return min(found)


def epochs_in(minutes: float, epoch_s: float) -> int:
    """Return the epochs that fit, two at least."""
    return max(2, round(60 * minutes / epoch_s))


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
