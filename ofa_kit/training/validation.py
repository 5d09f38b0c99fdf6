"""Judging a supernet while it trains: top-1 of its smallest and largest subnet, and the teacher of later phases."""

import dataclasses

import torch
from torch import Tensor

from ofa_kit.data.dataset import Dataset
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
    """Return the largest network of the first phase, recalibrated for each resolution."""
    supernet = Supernet(run.space)
    supernet.load_state_dict(checkpoint.load(run.teacher)[0])
    supernet.to(device)
    evaluator = Evaluator(dataset, calibration=run.recipe.calibration_images)
    largest = run.space.largest()
    subnets = {
        r: evaluator.recalibrated(supernet, dataclasses.replace(largest, resolution=r)) for r in run.space.resolutions
    }

    @torch.no_grad()
    def logits(images: Tensor, resolution: int) -> Tensor:
        found: Tensor = subnets[resolution](resize(images.float(), resolution))
        return found.to(images.dtype)

    return logits
