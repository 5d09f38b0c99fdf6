"""Proof of an export: logits against PyTorch on real images, top-1 in ONNX Runtime, before and after conversion."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ofa_kit.data.batches import evaluation_batches
from ofa_kit.data.dataset import DatasetInfo, ImageSource
from ofa_kit.errors import ExportError
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import resize

TOLERANCE = 1e-4
PREPARED_TOLERANCE = 0.02
"""For graphs that prepare images: libraries round a resized pixel to one of 256 levels or to the next."""
PREPARED_IMAGES = 200
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
RunOnPixels = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How an exported model does against PyTorch on the same images."""

    images: int
    max_relative_difference: float
    """Largest difference of a logit, relative to the largest logit of PyTorch."""
    correct_pytorch: int
    correct_onnx: int
    classes_onnx: NDArray[np.int64]
    """What the exported model says of each image."""

    @property
    def top1_pytorch(self) -> float:
        return 100 * self.correct_pytorch / self.images

    @property
    def top1_onnx(self) -> float:
        return 100 * self.correct_onnx / self.images


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion to a lower precision costs on the same images."""

    images: int
    correct_before: int
    correct_after: int
    same_class: int
    """Images that keep their class, right or wrong."""

    @property
    def top1_after(self) -> float:
        return 100 * self.correct_after / self.images

    @property
    def drop(self) -> float:
        """Points of top-1 lost."""
        return 100 * (self.correct_before - self.correct_after) / self.images


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """How a model that prepares images itself does against PyTorch with its own preparation."""

    images: int
    max_relative_difference: float
    same_class: int


def compare(subnet: Subnet, run: Run, batches: Iterable[tuple[Tensor, Tensor]]) -> Comparison:
    """Run both on labelled images; an ExportError when logits differ by more than TOLERANCE."""
    resolution = subnet.arch.resolution
    return compare_at_size(subnet, run, ((resize(images, resolution), labels) for images, labels in batches))


@torch.no_grad()
def compare_at_size(network: nn.Module, run: Run, batches: Iterable[tuple[Tensor, Tensor]]) -> Comparison:
    """Do the same for any network in evaluation mode on the CPU, on images of its size."""
    correct_pytorch = correct_onnx = 0
    classes: list[NDArray[np.int64]] = []
    difference = largest = 0.0
    for images, labels in batches:
        inputs = images.contiguous()
        expected = network(inputs).numpy()
        found = run(inputs.numpy())
        if not np.isfinite(expected).all():
            raise ExportError("the network's logits are not finite: its training diverged; train again with a lower lr")
        difference = float(np.maximum(difference, np.abs(found - expected).max()))  # keeps NaN, unlike max()
        largest = max(largest, float(np.abs(expected).max()))
        classes.append(found.argmax(1))
        correct_pytorch += int((expected.argmax(1) == labels.numpy()).sum())
        correct_onnx += int((classes[-1] == labels.numpy()).sum())
    every = np.concatenate(classes)
    relative = difference / max(largest, 1e-12)
    if not relative <= TOLERANCE:
        raise ExportError(
            f"the exported model differs from PyTorch by {relative:.2e} on {len(every)} images, allowed {TOLERANCE}; "
            "this is a fault of the export: please report it with the architecture"
        )
    return Comparison(
        images=len(every),
        max_relative_difference=relative,
        correct_pytorch=correct_pytorch,
        correct_onnx=correct_onnx,
        classes_onnx=every,
    )


def compare_converted(before: Comparison, classes: NDArray[np.int64], labels: Tensor) -> Converted:
    """Set the classes that a converted model says beside those of the fp32 model on the same images."""
    return Converted(
        images=before.images,
        correct_before=before.correct_onnx,
        correct_after=int((classes == labels.numpy()).sum()),
        same_class=int((classes == before.classes_onnx).sum()),
    )


@torch.no_grad()
def compare_prepared(subnet: Subnet, run: RunOnPixels, source: ImageSource, info: DatasetInfo) -> Prepared:
    """Run a model with its preprocessing on images as they are; an ExportError where logits differ too much."""
    count = len(source.labels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, PREPARED_IMAGES)).astype(np.int64))
    inputs = torch.cat([images for images, _ in evaluation_batches(source, info, indices=chosen)])
    expected = subnet(resize(inputs, subnet.arch.resolution)).numpy()
    raw = [source.image(int(index)).permute(1, 2, 0).contiguous().numpy()[None] for index in chosen]
    found = np.concatenate([run(image) for image in raw])
    relative = float(np.abs(found - expected).max()) / max(float(np.abs(expected).max()), 1e-12)
    if not relative <= PREPARED_TOLERANCE:
        raise ExportError(
            f"with its preprocessing inside, the model differs from PyTorch by {relative:.2e} on {len(chosen)} images, "
            f"allowed {PREPARED_TOLERANCE}; leave --embed-preprocessing out, and please report it with the data"
        )
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    return Prepared(images=len(chosen), max_relative_difference=relative, same_class=same)
