"""Evaluator: top-1 of subnets, each with batch norm recalibrated on training images."""

from functools import cached_property

import numpy as np
from torch import Tensor

from ofa_kit.arch.config import ArchConfig
from ofa_kit.data.batches import Batch, evaluation_batches
from ofa_kit.data.dataset import Dataset, ImageSource
from ofa_kit.supernet.recalibrate import recalibrate, top1
from ofa_kit.supernet.subnet import Subnet, extract
from ofa_kit.supernet.supernet import Supernet

CALIBRATION_BATCH = 250


class Evaluator:
    """Keeps calibration and validation batches, so that many subnets are judged on the same images."""

    def __init__(self, dataset: Dataset, *, calibration: int, validation: int = 0) -> None:
        self.dataset = dataset
        self.calibration = calibration
        self.validation = validation
        """Validation images; 0 = all."""

    def recalibrated(self, supernet: Supernet, arch: ArchConfig) -> Subnet:
        """Return the extracted subnet with its own batch norm statistics."""
        return recalibrate(extract(supernet, arch), self._calibration_images)

    def top1(self, supernet: Supernet, arch: ArchConfig) -> float:
        """Return top-1 in percent on the validation images."""
        return top1(self.recalibrated(supernet, arch), self._validation_batches)

    def validation_top1(self, subnet: Subnet) -> float:
        return top1(subnet, self._validation_batches)

    def test_top1(self, subnet: Subnet) -> float:
        """Return top-1 in percent on all test images."""
        return top1(subnet, evaluation_batches(self.dataset.test, self.dataset.info))

    @property
    def validation_count(self) -> int:
        return sum(len(labels) for _, labels in self._validation_batches)

    @cached_property
    def _calibration_images(self) -> list[Tensor]:
        return [images for images, _ in _some(self.dataset.train, self.dataset, self.calibration, CALIBRATION_BATCH)]

    @cached_property
    def _validation_batches(self) -> list[Batch]:
        return _some(self.dataset.validation, self.dataset, self.validation, 500)


def _some(source: ImageSource, dataset: Dataset, count: int, batch_size: int) -> list[Batch]:
    """Return `count` images (0 = all) spread over the source, the same at every call."""
    total = len(source.labels)
    indices = np.random.default_rng(0).permutation(total)[: count or total]
    return list(evaluation_batches(source, dataset.info, batch_size=batch_size, indices=np.sort(indices)))
