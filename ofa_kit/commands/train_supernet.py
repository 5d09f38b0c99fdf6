"""train-supernet: recipe and data to a trained supernet in a run folder."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ofa_kit.arch.space_file import find_space
from ofa_kit.data.batches import batches_per_epoch
from ofa_kit.data.dataset import Dataset
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import RunError
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training import loop
from ofa_kit.training.allocator import keep_freed_memory
from ofa_kit.training.distributed import Team, leave
from ofa_kit.training.phases import phases_of
from ofa_kit.training.position import Progress
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.run import Run


def train_supernet(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Train the supernet that the recipe `values` describe in `folder`, or go on with the one begun there."""
    settings = Run.open(folder).recipe if resume else Recipe.parse(values, source)
    team = Team.join(settings.accelerator)
    reporter = reporter if reporter is not None and team.is_first else Silent()
    try:
        run, dataset = _prepared(values, folder, source, resume, team)
        if run.weights.exists():
            reporter.say(f"run '{folder}' is finished already")
            return run
        prepare_torch(team.size)
        _train(run, dataset, team, reporter)
    finally:
        leave()
    return run


def prepare_torch(processes: int = 1) -> None:
    """Let PyTorch use its share of the cores this process may run on, and keep the memory it frees."""
    import torch

    keep_freed_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    torch.set_num_threads(int(asked) if asked.isdecimal() and int(asked) else max(1, cores // processes))


def _prepared(values: Mapping[str, Any], folder: Path, source: str, resume: bool, team: Team) -> tuple[Run, Dataset]:
    """Return the run and its data; the first process of the team makes what the others find."""
    if not resume and team.is_first:
        recipe = Recipe.parse(values, source)
        Run.refuse_begun(folder)
        dataset = _open(recipe)
        run = Run.create(folder, recipe, dataset.info)
        team.wait()
        return run, dataset
    if resume:
        run, dataset = _begun(values, folder, source)
        team.wait()
        return run, dataset
    team.wait()
    run = Run.open(folder)
    return run, _open(run.recipe)


def _begun(values: Mapping[str, Any], folder: Path, source: str) -> tuple[Run, Dataset]:
    """Open a run to go on with; its own recipe counts, and what is given must not contradict it."""
    run = Run.open(folder)
    given = Recipe.parse({"space": run.recipe.space, **values}, source)
    for key in values:
        same = getattr(given, key) == getattr(run.recipe, key) or (
            key == "space" and find_space(given.space) == find_space(run.recipe.space)
        )
        if key != "data" and not same:
            raise RunError(
                f"run '{folder}' was begun with {key}={getattr(run.recipe, key)}, --resume asks for "
                f"{getattr(given, key)}; leave it out, or start another --run NAME"
            )
    recipe = given if "data" in values else run.recipe
    dataset = _open(recipe)
    found, begun = dataset.info, run.info
    if (found.num_classes, found.in_channels) != (begun.num_classes, begun.in_channels):
        raise RunError(
            f"run '{folder}' has {begun.num_classes} classes and {begun.in_channels} channels, the data "
            f"'{recipe.data}' have {found.num_classes} and {found.in_channels}; give the data the run was begun with"
        )
    if replace(found, data=begun.data) != begun:
        raise RunError(
            f"run '{folder}' was begun with other images than '{recipe.data}' has now; give those, or start another run"
        )
    if found.data != begun.data:
        run = Run(folder, replace(run.recipe, data=recipe.data), found)
        run.save_config()
    return run, dataset


def _open(recipe: Recipe) -> Dataset:
    return open_dataset(recipe.data, photo_size=max(find_space(recipe.space).resolutions))


def _train(run: Run, dataset: Dataset, team: Team, reporter: Reporter) -> None:
    recipe = run.recipe
    reporter.say(
        f"training {run.space.name} ({run.space.size():.3g} subnets) by {recipe.method} on {recipe.data}: "
        f"{len(dataset.train.labels)} training, {len(dataset.validation.labels)} validation images, "
        f"{team.device.type}, {recipe.precision}" + (f", {team.size} processes" if team.size > 1 else "")
    )
    epochs = sum(phase.epochs for phase in phases_of(recipe, run.space))
    total = epochs * batches_per_epoch(dataset.train, recipe.batch_size)
    try:
        with reporter.task("train", total) as advance:

            def watch(progress: Progress) -> None:
                advance(progress.done_steps, f"{progress.phase} loss {progress.loss:.3f}")
                if progress.row and "top1_largest" in progress.row:
                    row = progress.row
                    reporter.say(
                        f"{row['phase']} epoch {row['epoch']}: loss {row['loss']}, validation top-1 "
                        f"{row['top1_smallest']} % smallest, {row['top1_largest']} % largest (measured)"
                    )

            loop.train(run, dataset, team=team, watch=watch)
    except KeyboardInterrupt:
        team.wait()
        reporter.say(f"stopped; go on with `ofa-kit train-supernet --run {run.folder} --resume`")
        raise
