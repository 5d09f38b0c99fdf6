"""Judging a supernet while it trains: top-1 of its smallest and largest subnet, and the teacher of later phases."""

import dataclasses
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ofa_kit.data.dataset import Dataset
from ofa_kit.errors import RunError
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import Supernet, resize
from ofa_kit.training import checkpoint
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.run import Run
from ofa_kit.training.step import Teacher

ENDS = ("top1_smallest", "top1_largest")


class Validator:
    """Validates again and again on the same images, decoded once."""

    def __init__(self, run: Run, dataset: Dataset, device: torch.device) -> None:
        self.supernet = Supernet(run.space).to(device)
        self.evaluator = Evaluator(
            dataset, calibration=run.recipe.calibration_images, validation=run.recipe.validation_images
        )

    def ends(self, state: dict[str, Tensor]) -> dict[str, str]:
        """Return top-1 in percent of the smallest and the largest subnet with these weights."""
        self.supernet.load_state_dict(state)
        space = self.supernet.space
        archs = zip(ENDS, (space.smallest(), space.largest()), strict=True)
        return {name: f"{self.evaluator.top1(self.supernet, arch):.2f}" for name, arch in archs}


def load_teacher(run: Run, dataset: Dataset, device: torch.device) -> Teacher:
    """Return the largest network of the first phase or, where the recipe names one, of another run.

    It is recalibrated for each resolution that is asked for.
    """
    supernet = _taught_by(run, dataset).to(device)
    evaluator = Evaluator(dataset, calibration=run.recipe.calibration_images)
    largest = supernet.space.largest()

    @cache
    def at(resolution: int) -> Subnet:
        return evaluator.recalibrated(supernet, dataclasses.replace(largest, resolution=resolution))

    @torch.no_grad()
    def logits(images: Tensor, resolution: int) -> Tensor:
        found: Tensor = at(resolution)(resize(images.float(), resolution))
        return found.to(images.dtype)

    return logits


def _taught_by(run: Run, dataset: Dataset) -> Supernet:
    if not run.recipe.teacher:
        supernet = Supernet(run.space)
        supernet.load_state_dict(checkpoint.load(run.teacher)[0])
        return supernet
    other = Run.open(Path(run.recipe.teacher))
    if other.info.class_names != dataset.info.class_names:
        raise RunError(
            f"the teacher '{other.folder}' knows {len(other.info.class_names)} classes by other names than "
            f"'{dataset.info.data}' has ({len(dataset.info.class_names)}); give a run of the same classes"
        )
    return other.load_supernet()[0]
