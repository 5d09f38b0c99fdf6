"""Dataset: labelled images in three parts, and what is needed to prepare an image for a network trained on them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ofa_kit.errors import DataError


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What a run remembers of its data."""

    data: str
    """The name given by the user, such as `digits` or `imagefolder:PATH`."""
    class_names: tuple[str, ...]
    in_channels: int
    image_size: int
    """Images reach the network's resize step as image_size x image_size pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_fraction: float = 1.0
    """Below 1: the shorter side is resized to image_size / crop_fraction and the centre is cropped."""
    flip: bool = False
    """Whether a mirrored image keeps its class."""
    content: str = ""
    """Hash of the labels of all parts: other images would be split differently, and training ones validated on."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class ImageSource(Protocol):
    """Images by index: uint8 tensors of one size, or of any size before the training crop."""

    @property
    def labels(self) -> Tensor: ...

    def image(self, index: int) -> Tensor:
        """Return one image (C, H, W), uint8."""
        ...


@dataclass(frozen=True)
class MemoryImages:
    """A small set, decoded once: images (N, C, S, S) uint8 and labels (N,)."""

    images: Tensor
    labels: Tensor

    def image(self, index: int) -> Tensor:
        return self.images[index]


@dataclass(frozen=True)
class FileImages:
    """A large set, decoded when asked for."""

    paths: tuple[Path, ...]
    labels: Tensor

    def image(self, index: int) -> Tensor:
        return decode(self.paths[index])


@dataclass(frozen=True)
class Dataset:
    """Training, validation (held out of training) and test images."""

    info: DatasetInfo
    train: ImageSource
    validation: ImageSource
    test: ImageSource


@dataclass(frozen=True)
class Part:
    """Some images of a source, by position."""

    source: ImageSource
    indices: NDArray[np.int64]

    @property
    def labels(self) -> Tensor:
        return self.source.labels[torch.from_numpy(self.indices)]

    def image(self, index: int) -> Tensor:
        return self.source.image(int(self.indices[index]))


def decode(path: Path) -> Tensor:
    """Return the RGB image in a file, (3, H, W) uint8; a DataError names a file that is none."""
    try:
        with Image.open(path) as image:
            is_16_bit = image.mode.startswith("I")  # PIL would clip such greys to black and white
            plain = Image.fromarray((np.array(image) // 256).astype(np.uint8)) if is_16_bit else image
            pixels = np.array(plain.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"'{path}' is not a readable image ({error}); delete or replace it") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def hold_out(source: ImageSource, share: float, seed: int) -> tuple[Part, Part]:
    """Split into (rest, held out) with the same share of each class; the same split for the same seed."""
    labels = source.labels.numpy()
    rng = np.random.default_rng(seed)
    held: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held += rng.permutation(members)[: max(1, round(share * len(members)))].tolist()
    mask = np.zeros(len(labels), dtype=bool)
    mask[held] = True
    if len(np.unique(labels[~mask])) < len(np.unique(labels)):
        raise DataError(
            "every class needs at least two images, so that one can be held out; add images or drop classes"
        )
    return Part(source, np.flatnonzero(~mask)), Part(source, np.flatnonzero(mask))


def part_of(dataset: Dataset, images: int, seed: int) -> ImageSource:
    """Return about so many training images (0 = all), with the same share of each class."""
    total = len(dataset.train.labels)
    if images > total:
        raise DataError(f"images: {images} asked for, '{dataset.info.data}' has {total} for training; ask for fewer")
    return hold_out(dataset.train, images / total, seed)[1] if 0 < images < total else dataset.train


def content_hash(*sources: ImageSource) -> str:
    """Return 12 hex digits of the labels of the sources, in order."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.labels.numpy().astype(np.int64).tobytes() + b"|")
    return digest.hexdigest()[:12]


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 images (N, C, H, W), scaled to 0..1."""
    scaled = images[:: max(1, len(images) // 5000)].float() / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    return tuple(round(v, 4) for v in mean.tolist()), tuple(max(0.01, round(v, 4)) for v in std.tolist())
