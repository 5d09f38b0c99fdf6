"""Batches: training batches that any process can make again from (seed, epoch), and plain evaluation batches.

torchvision is imported where it is used: it takes over a second, and most commands need it late or never.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ofa_kit.data.dataset import DatasetInfo, ImageSource, MemoryImages, Part

Batch = tuple[Tensor, Tensor]
"""Images (N, C, S, S), normalised float32, and labels (N,)."""


def training_batches(
    source: ImageSource,
    info: DatasetInfo,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
    pinned: bool = False,
) -> Iterator[Batch]:
    """Yield the augmented batches of one epoch from batch `start` on; the last incomplete batch is left out.

    Order and augmentation depend on (seed, epoch, batch) alone, so a resumed epoch goes on with the same batches.
    `part` (index, count) yields one of `count` equal parts of each batch: together they are the whole batch.
    """
    numbers = range(start, batches_per_epoch(source, batch_size))
    yield from DataLoader(
        _Augmented(source, info),
        batch_sampler=_Keys(len(source.labels), batch_size, seed, epoch, numbers, part),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pinned,
    )


def batches_per_epoch(source: ImageSource, batch_size: int) -> int:
    """Return the number of full batches, at least one."""
    return max(1, len(source.labels) // batch_size)


def evaluation_batches(
    source: ImageSource, info: DatasetInfo, *, batch_size: int = 256, indices: NDArray[np.int64] | None = None
) -> Iterator[Batch]:
    """Yield batches without augmentation, in order; `indices` choose some images."""
    chosen = np.arange(len(source.labels)) if indices is None else indices
    crop = _evaluation_crop(info)
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        images = _raw_images(source, part) if crop is None else torch.stack([crop(source.image(int(i))) for i in part])
        yield normalize(images, info), source.labels[torch.from_numpy(part)]


def normalize(images: Tensor, info: DatasetInfo) -> Tensor:
    """Scale uint8 images (N, C, H, W) to 0..1, subtract the mean and divide by the standard deviation."""
    mean = torch.tensor(info.mean).view(1, -1, 1, 1)
    std = torch.tensor(info.std).view(1, -1, 1, 1)
    return (images.float() / 255 - mean) / std


@dataclass(frozen=True)
class _Keys:
    """For each batch the keys (index, seed of the augmentation) of one part of its images, made when asked for."""

    images: int
    batch_size: int
    seed: int
    epoch: int
    numbers: range
    part: tuple[int, int]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images)
        index, parts = self.part
        for batch in self.numbers:
            members = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            seeds = np.random.default_rng([self.seed, self.epoch, batch]).integers(2**62, size=len(members))
            cut = len(members) // parts
            mine = slice(index * cut, (index + 1) * cut)
            yield list(zip(members[mine].tolist(), seeds[mine].tolist(), strict=True))


class _Augmented(TorchDataset[Batch]):
    """Whole batches by keys (index, seed of the augmentation)."""

    def __init__(self, source: ImageSource, info: DatasetInfo) -> None:
        from torchvision.transforms import v2

        self.source, self.info = source, info
        size = info.image_size
        crop: list[v2.Transform] = (
            [v2.RandomCrop(size, padding=max(1, size // 8))]
            if info.crop_fraction == 1
            else [v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True)]
        )
        self.augment = v2.Compose(crop + [v2.RandomHorizontalFlip()] * info.flip)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        images = []
        with torch.random.fork_rng(devices=[]):
            for index, seed in keys:
                torch.default_generator.manual_seed(seed)  # torch.manual_seed costs a millisecond: a stack for CUDA
                images.append(self.augment(self.source.image(index)))
        indices = torch.tensor([index for index, _ in keys])
        return normalize(torch.stack(images), self.info), self.source.labels[indices]


def _as_it_is(batch: Any) -> Any:
    return batch


def _evaluation_crop(info: DatasetInfo) -> Callable[[Tensor], Tensor] | None:
    if info.crop_fraction == 1:
        return None
    from torchvision.transforms import v2

    crop: Callable[[Tensor], Tensor] = v2.Compose(
        [v2.Resize(round(info.image_size / info.crop_fraction), antialias=True), v2.CenterCrop(info.image_size)]
    )
    return crop


def _raw_images(source: ImageSource, indices: NDArray[np.int64]) -> Tensor:
    if isinstance(source, Part):
        return _raw_images(source.source, source.indices[indices])
    if isinstance(source, MemoryImages):
        return source.images[torch.from_numpy(indices)]
    return torch.stack([source.image(int(i)) for i in indices])
