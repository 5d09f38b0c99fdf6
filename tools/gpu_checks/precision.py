"""Precision: mixed precision beside fp32, and what a checkpoint brings back on this device."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from gpu_checks.common import Result, Sizes, difference

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.presets import preset
from ofa_kit.data.batches import Batch, training_batches
from ofa_kit.data.dataset import Dataset, ImageSource, MemoryImages, Part
from ofa_kit.data.sources import open_dataset
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training import checkpoint
from ofa_kit.training.loop import train
from ofa_kit.training.optimizer import make_optimizer
from ofa_kit.training.position import Progress
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.rules import Sandwich
from ofa_kit.training.run import Run
from ofa_kit.training.step import Step

SPACE = "mbv3-tiny"
WINDOW = 10
"""Steps whose mean loss counts, at either end."""
CLOSE = 0.15
NOTHING = 1e-3
"""What a batch norm takes away again, such as the bias before the next one, stays at 1e-15: rounding alone."""
IMAGES, STOP_AFTER, MARKED_SCALE = 160, 7, 1024.0
"""Ten steps in two epochs, a stop in the second, a loss scale that no run has by itself."""
SHORT = {"space": SPACE, "epochs": 2, "batch_size": 32, "calibration_images": 32, "validation_images": 32}


class StoppedError(Exception):
    """Raised by a watcher in the middle of training."""


def precision(device: torch.device, sizes: Sizes) -> Iterator[Result]:
    """Compare losses of sandwich steps on digits, then stop and resume a run in fp16."""
    dataset = open_dataset("digits", photo_size=32)
    exact = losses_of("fp32", dataset, device, sizes.steps)
    yield _falling("fp32", exact, exact)
    for name in ("bf16", "fp16"):
        yield _falling(name, losses_of(name, dataset, device, sizes.steps), exact)
    yield loss_scale(_few(dataset), device)


def losses_of(name: str, dataset: Dataset, device: torch.device, steps: int) -> list[float]:
    """Return the loss of each step of a sandwich training in a precision."""
    recipe = Recipe.parse({"space": SPACE, "precision": name}, "gpu_check")
    info = dataset.info
    space = preset(SPACE).adapted(in_channels=info.in_channels, num_classes=info.num_classes)
    supernet = Supernet(space).to(device).train()
    step, optimizer = Step(supernet, recipe, device), make_optimizer(supernet, recipe)
    rule, rng = Sandwich(space, recipe.num_random), np.random.default_rng(0)
    losses = []
    for images, labels in islice(_batches(dataset, recipe.batch_size), steps):
        optimizer.zero_grad()
        passes = rule.passes(rng, _no_loss)
        losses.append(step.add_gradients(images.to(device), labels.to(device), passes, noise_seed=0))
        step.update(optimizer)
    return losses


def loss_scale(dataset: Dataset, device: torch.device) -> Result:
    """Stop a run in fp16, mark the scale in its checkpoint, resume it, and look at the scale it ends with."""
    with tempfile.TemporaryDirectory() as name:
        run = _stopped(Path(name) / "run", dataset, device, precision="fp16")
        tensors, facts = checkpoint.load(run.last_checkpoint)
        stopped = facts["scaler"]
        facts["scaler"] = {**stopped, "scale": MARKED_SCALE}
        checkpoint.save(run.last_checkpoint, tensors, facts)
        counted: list[Progress] = []
        train(Run.open(run.folder), dataset, watch=counted.append)
        ended = checkpoint.load(run.last_checkpoint)[1]["scaler"]
    steps = sum(progress.row is None for progress in counted)
    expected = stopped["_growth_tracker"] + steps
    return Result(
        "fp16 loss scale",
        ended["scale"] == MARKED_SCALE and ended["_growth_tracker"] == expected,
        f"stopped at {stopped['scale']:g}, set to {MARKED_SCALE:g}, {ended['scale']:g} after {steps} resumed steps; "
        f"steps without overflow {stopped['_growth_tracker']}, then {ended['_growth_tracker']} (expected {expected})",
    )


def resume(device: torch.device, sizes: Sizes) -> Iterator[Result]:
    """Compare runs on colour images, whose first convolution has a memory layout to lose, stopped and not.

    In fp64, so that what a device adds up in another order stays small.
    """
    dataset = _colour(_few(open_dataset("digits", photo_size=32)))
    for optimizer, lr in (("sgd", 0.1), ("adamw", 0.001), ("rmsprop", 0.001)):
        settings = {"optimizer": optimizer, "lr": lr, "precision": "fp64"}
        with tempfile.TemporaryDirectory() as name:
            whole = _created(Path(name) / "whole", dataset, device, **settings)
            train(whole, dataset)
            resumed = _stopped(Path(name) / "resumed", dataset, device, **settings)
            train(Run.open(resumed.folder), dataset)
            worst = weights_differ(resumed, whole)
        yield Result(
            optimizer, worst <= 1e-5, f"resumed and uninterrupted weights differ by {worst:.1e} (at most 1e-05)"
        )


def weights_differ(found: Run, expected: Run) -> float:
    """Return the largest difference of a trained tensor, relative to its largest value or NOTHING."""
    ours, theirs = (checkpoint.load(run.weights)[0] for run in (found, expected))
    return max(difference(ours[name], tensor, NOTHING) for name, tensor in theirs.items())


def _falling(name: str, losses: list[float], exact: list[float]) -> Result:
    first, last, reference = (float(np.mean(part)) for part in (losses[:WINDOW], losses[-WINDOW:], exact[-WINDOW:]))
    good = bool(np.isfinite(losses).all()) and last < first and abs(last - reference) <= CLOSE * reference
    return Result(
        name,
        good,
        f"{len(losses)} sandwich steps, loss {first:.3f} -> {last:.3f} (means of {WINDOW}), fp32 ends at "
        f"{reference:.3f}: {100 * (last / reference - 1):+.1f} % (within {100 * CLOSE:.0f} %)",
    )


def _batches(dataset: Dataset, batch_size: int) -> Iterator[Batch]:
    """Yield augmented batches, epoch after epoch."""
    epochs = (training_batches(dataset.train, dataset.info, batch_size=batch_size, seed=0, epoch=e) for e in range(100))
    return chain.from_iterable(epochs)


def _no_loss(arch: ArchConfig) -> float:
    raise AssertionError("this rule asks for no loss")


def _created(folder: Path, dataset: Dataset, device: torch.device, **values: object) -> Run:
    recipe = Recipe.parse({**SHORT, "accelerator": device.type, "checkpoint_s": 0.0, **values}, "gpu_check")
    return Run.create(folder, recipe, dataset.info)


def _stopped(folder: Path, dataset: Dataset, device: torch.device, **values: object) -> Run:
    """Train with a checkpoint after each step and break off in the second epoch."""
    run = _created(folder, dataset, device, **values)
    seen = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == STOP_AFTER + 1:
            raise StoppedError

    try:
        train(run, dataset, watch=watch)
    except StoppedError:
        return run
    raise AssertionError(f"training ended before {STOP_AFTER} steps")


def _few(dataset: Dataset) -> Dataset:
    return replace(dataset, train=Part(dataset.train, np.arange(IMAGES)))


def _colour(dataset: Dataset) -> Dataset:
    """Return digits as images of three different channels."""

    def in_colour(source: ImageSource) -> MemoryImages:
        images = torch.stack([source.image(i) for i in range(len(source.labels))])
        return MemoryImages(torch.cat([images, 255 - images, images // 2], 1), source.labels)

    info = replace(dataset.info, in_channels=3, mean=(0.3, 0.7, 0.15), std=(0.4, 0.4, 0.2))
    return Dataset(info, *(in_colour(part) for part in (dataset.train, dataset.validation, dataset.test)))
