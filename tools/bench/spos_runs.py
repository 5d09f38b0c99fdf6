"""Supernets of tools/bench/spos.py: trained for so many minutes, searched, and random choices within their budgets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.arch.space_file import write_space
from ofa_kit.commands.measure_accuracy import measure_accuracy
from ofa_kit.commands.measure_engine import Measuring
from ofa_kit.commands.search_spos import SposFound, search_spos
from ofa_kit.commands.specialize_site import Site
from ofa_kit.commands.spos_evolution import SposSettings
from ofa_kit.commands.train_supernet import prepare_torch, train_supernet
from ofa_kit.config import read_yaml, shipped_profiles
from ofa_kit.data.batches import batches_per_epoch, training_batches
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.progress import Terminal
from ofa_kit.search.active import Measured
from ofa_kit.search.budget import Budget, Values
from ofa_kit.storage import write_text
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.optimizer import make_optimizer
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.rules import Pass
from ofa_kit.training.run import Run
from ofa_kit.training.step import Step

RECIPE = "cifar10-spos"
RANDOM = 10
DRAWS = 1000
PROBE_STEPS = 12
"""Training steps that are timed to turn minutes into epochs; the first two warm up."""
BUDGET_QUANTILE = 0.3
"""A budget is what this share of random subnets meets."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says."""

    data: str
    folder: Path
    minutes: float
    epochs: int | None
    device: DeviceProfile
    subnets: int
    spos: SposSettings
    how: Measuring
    test_images: int
    reporter: Terminal

    @property
    def tables(self) -> Path:
        return self.folder / "latency_tables"


def trained(settings: Settings, name: str, space: SearchSpace) -> Run:
    """Return the run of a study, trained to its end from where it stands."""
    folder, path = settings.folder / name, settings.folder / f"{name}.yaml"
    if (folder / "config.yaml").exists():
        return train_supernet({}, folder, resume=True, reporter=settings.reporter)
    write_space(path, space)
    values = {**read_yaml(shipped_profiles() / "recipes" / f"{RECIPE}.yaml"), "data": settings.data}
    values |= {"space": str(path), "seed": settings.spos.seed, "warmup_epochs": 0}
    values["epochs"] = settings.epochs or epochs_within(settings.minutes, Recipe.parse(values, name), space)
    settings.reporter.say(f"{name}: {values['epochs']} epochs")
    return train_supernet(values, folder, source=name, reporter=settings.reporter)


def epochs_within(minutes: float, recipe: Recipe, space: SearchSpace) -> int:
    """Return how many epochs fit, by the time of a few steps."""
    prepare_torch()
    dataset = open_dataset(recipe.data, photo_size=max(space.resolutions))
    space = space.adapted(in_channels=dataset.info.in_channels, num_classes=dataset.info.num_classes)
    supernet, rng = Supernet(space), np.random.default_rng(0)
    step, optimizer = Step(supernet, recipe, torch.device("cpu")), make_optimizer(supernet, recipe)
    batches = training_batches(dataset.train, dataset.info, batch_size=recipe.batch_size, seed=0, epoch=0)
    times = []
    for _ in range(PROBE_STEPS):
        start_s = perf_counter()
        images, labels = next(batches)
        optimizer.zero_grad()
        step.add_gradients(images, labels, [Pass(space.sample(rng), "labels")], 0)
        step.update(optimizer)
        times.append(perf_counter() - start_s)
    epoch_s = median(times[2:]) * batches_per_epoch(dataset.train, recipe.batch_size)
    return max(1, round(60 * minutes / epoch_s))


def search(settings: Settings, name: str, run: Run, budget: Budget, bit_ops_g: float) -> SposFound:
    """Search a run; what was measured before is not measured again."""
    device = settings.device if math.isfinite(budget.latency_ms) else None
    settings.reporter.say(f"{name}: search within {budget}, {bit_ops_g:g} G bit operations")
    return search_spos(
        run,
        budget,
        device=device,
        bit_ops_g=bit_ops_g,
        settings=settings.spos,
        how=settings.how,
        tables=settings.tables,
        reporter=settings.reporter,
    )


def agreed(settings: Settings, name: str, most: Callable[[], float]) -> float:
    """Return the limit of a study: the one it began with, whatever is measured since, else `most()` to 4 digits."""
    path = settings.folder / f"{name}.budget"
    if not path.exists():
        write_text(path, f"{most():.4g}\n")
    return float(path.read_text(encoding="utf-8"))


def with_operations(space: SearchSpace, arch: ArchConfig) -> SearchSpace:
    """Return the space whose blocks are those of an architecture, with every channel scale left to choose."""
    stages = tuple(
        replace(
            stage,
            blocks=tuple(
                replace(block, operations=(operation,))
                for block, operation in zip(stage.blocks, chosen.operations, strict=True)
            ),
        )
        for stage, chosen in zip(space.stages, arch.stages, strict=True)
    )
    return replace(space, name=f"{space.name}-{arch.key}", stages=stages)


def random_choices(genomes: Genomes, fitting: Callable[[Genomes], Genomes]) -> Genomes:
    """Return the first of the genomes that fit when measured, a few at a time."""
    found = genomes[:0]
    for start in range(0, len(genomes), RANDOM):
        found = np.vstack([found, fitting(genomes[start : start + RANDOM])])
        if len(found) >= RANDOM:
            return found[:RANDOM]
    raise OfaKitError(f"only {len(found)} of {len(genomes)} random choices were measured within the budget")


def drawn(space: SearchSpace, seed: int) -> Genomes:
    """Return uniform genomes, the same ones for the same seed."""
    return space.sample_genomes(DRAWS, np.random.default_rng([201, seed]))


def share_of(costs: Values) -> float:
    """Return the cost that BUDGET_QUANTILE of them stay below."""
    return float(np.quantile(costs, BUDGET_QUANTILE))


def measured_ms(site: Site, arch: ArchConfig) -> float:
    """Return measured latency, infinite where the device does not run it."""
    found = site.measured(arch)
    return found.latency_ms if found else math.inf


@dataclass(frozen=True)
class Listed:
    """A choice of what to measure: these."""

    archs: Sequence[ArchConfig]

    def next(self, measured: Measured, count: int) -> list[ArchConfig]:
        known = {arch.key for arch, _ in measured}
        return [arch for arch in self.archs if arch.key not in known][:count]


def measure_listed(run: Run, settings: Settings, archs: Sequence[ArchConfig]) -> None:
    """Give these subnets rows in the run's accuracy.csv."""
    measure_accuracy(run, count_with(run, settings, archs), how=settings.how, choice=Listed(archs))


def count_with(run: Run, settings: Settings, archs: Sequence[ArchConfig]) -> int:
    """Return how many rows there are once these are measured."""
    rows = AccuracyTable.open(run.accuracy, run.load_supernet()[1]).measured_on(settings.how.images)
    return len({arch.key for arch, _ in rows} | {arch.key for arch in archs})
