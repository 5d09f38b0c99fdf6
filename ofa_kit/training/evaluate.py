"""Evaluator: top-1 of subnets, each with batch norm recalibrated on training images."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ofa_kit.arch.config import ArchConfig
from ofa_kit.data.batches import Batch, evaluation_batches
from ofa_kit.data.dataset import Dataset, DatasetInfo, ImageSource, MemoryImages
from ofa_kit.supernet.recalibrate import recalibrate, top1
from ofa_kit.supernet.subnet import Subnet, extract
from ofa_kit.supernet.supernet import Supernet

BATCH = 250
"""Images of one batch: the statistics of a calibration batch are its own, so other sizes give other statistics."""


class Evaluator:
    """Keeps calibration and validation images, so that many subnets are judged on the same ones, decoded once."""

    def __init__(self, dataset: Dataset, *, calibration: int, validation: int = 0) -> None:
        self.dataset = dataset
        self.calibration = calibration
        self.validation = validation
        """Validation images; 0 = all."""

    def recalibrated(self, supernet: Supernet, arch: ArchConfig) -> Subnet:
        """Return the extracted subnet with its own batch norm statistics."""
        return recalibrate(extract(supernet, arch), image_batches(self.calibration_images, self.dataset.info))

    def top1(self, supernet: Supernet, arch: ArchConfig) -> float:
        """Return top-1 in percent on the validation images."""
        return self.validation_top1(self.recalibrated(supernet, arch))

    def validation_top1(self, subnet: Subnet) -> float:
        return top1(subnet, labelled_batches(self.validation_images, self.dataset.info))

    def test_top1(self, subnet: Subnet) -> float:
        """Return top-1 in percent on all test images."""
        return top1(subnet, evaluation_batches(self.dataset.test, self.dataset.info))

    @property
    def validation_count(self) -> int:
        """Return how many validation images subnets are judged on."""
        return min(self.validation or len(self.dataset.validation.labels), len(self.dataset.validation.labels))

    @cached_property
    def calibration_images(self) -> MemoryImages:
        """Training images, as evaluation sees them."""
        return decoded(self.dataset.train, self.dataset.info, self.calibration)

    @cached_property
    def validation_images(self) -> MemoryImages:
        return decoded(self.dataset.validation, self.dataset.info, self.validation)


def decoded(source: ImageSource, info: DatasetInfo, count: int) -> MemoryImages:
    """Return `count` images (0 = all) spread over the source, the same at every call, cropped for evaluation.

    They stay uint8, a quarter of their size in a network, and are normalised batch by batch.
    """
    total = len(source.labels)
    chosen = np.sort(np.random.default_rng(0).permutation(total)[: count or total])
    images = torch.empty((len(chosen), info.in_channels, info.image_size, info.image_size), dtype=torch.uint8)
    raw = replace(info, mean=(0.0,) * info.in_channels, std=(1 / 255,) * info.in_channels)
    start = 0
    for pixels, _ in evaluation_batches(source, raw, batch_size=BATCH, indices=chosen):
        images[start : start + len(pixels)] = pixels.round()
        start += len(pixels)
    return MemoryImages(images, source.labels[torch.from_numpy(chosen)])


def labelled_batches(images: MemoryImages, info: DatasetInfo, size: int = BATCH) -> Iterator[Batch]:
    """Yield batches of decoded images, normalised, with their labels."""
    return evaluation_batches(images, replace(info, crop_fraction=1.0), batch_size=size)


def image_batches(images: MemoryImages, info: DatasetInfo) -> Iterator[Tensor]:
    """Yield batches of decoded images, normalised."""
    return (batch for batch, _ in labelled_batches(images, info))
