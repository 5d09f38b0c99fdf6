"""train-supernet: recipe and data to a trained supernet in a run folder."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ofa_kit.arch.presets import preset
from ofa_kit.data.batches import batches_per_epoch
from ofa_kit.data.dataset import Dataset
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import RunError
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training import loop
from ofa_kit.training.allocator import keep_freed_memory
from ofa_kit.training.phases import phases_of
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
    reporter = reporter or Silent()
    if resume:
        run, dataset = _begun(values, folder, source)
    else:
        recipe = Recipe.parse(values, source)
        Run.refuse_begun(folder)
        dataset = _open(recipe)
        run = Run.create(folder, recipe, dataset.info)
    if run.weights.exists():
        reporter.say(f"run '{folder}' is finished already")
        return run
    prepare_torch()
    _train(run, dataset, reporter)
    return run


def prepare_torch() -> None:
    """Let PyTorch use every core this process may run on, and keep the memory it frees."""
    import torch

    keep_freed_memory()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _begun(values: Mapping[str, Any], folder: Path, source: str) -> tuple[Run, Dataset]:
    """Open a run to go on with; its own recipe counts, and what is given must not contradict it."""
    run = Run.open(folder)
    given = Recipe.parse({"space": run.recipe.space, **values}, source)
    for key in values:
        if key != "data" and getattr(given, key) != getattr(run.recipe, key):
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
    return open_dataset(recipe.data, photo_size=max(preset(recipe.space).resolutions))


def _train(run: Run, dataset: Dataset, reporter: Reporter) -> None:
    recipe = run.recipe
    reporter.say(
        f"training {run.space.name} ({run.space.size():.3g} subnets) by {recipe.method} on {recipe.data}: "
        f"{len(dataset.train.labels)} training, {len(dataset.validation.labels)} validation images"
    )
    epochs = sum(phase.epochs for phase in phases_of(recipe, run.space))
    total = epochs * batches_per_epoch(dataset.train, recipe.batch_size)
    try:
        with reporter.task("train", total) as advance:

            def watch(progress: loop.Progress) -> None:
                advance(progress.done_steps, f"{progress.phase} loss {progress.loss:.3f}")
                if progress.row and "top1_largest" in progress.row:
                    row = progress.row
                    reporter.say(
                        f"{row['phase']} epoch {row['epoch']}: loss {row['loss']}, validation top-1 "
                        f"{row['top1_smallest']} % smallest, {row['top1_largest']} % largest (measured)"
                    )

            loop.train(run, dataset, watch=watch)
    except KeyboardInterrupt:
        reporter.say(f"stopped; go on with `ofa-kit train-supernet --run {run.folder} --resume`")
        raise
