"""Proof of an export: logits against PyTorch on real images, top-1 in ONNX Runtime."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ofa_kit.errors import ExportError
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import resize

TOLERANCE = 1e-4
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How an exported model does against PyTorch on the same images."""

    images: int
    max_relative_difference: float
    """Largest difference of a logit, relative to the largest logit of PyTorch."""
    correct_pytorch: int
    correct_onnx: int

    @property
    def top1_pytorch(self) -> float:
        return 100 * self.correct_pytorch / self.images

    @property
    def top1_onnx(self) -> float:
        return 100 * self.correct_onnx / self.images


@torch.no_grad()
def compare(subnet: Subnet, run: Run, batches: Iterable[tuple[Tensor, Tensor]]) -> Comparison:
    """Run both on labelled images; an ExportError when logits differ by more than TOLERANCE."""
    images_seen = correct_pytorch = correct_onnx = 0
    difference = largest = 0.0
    for images, labels in batches:
        inputs = resize(images, subnet.arch.resolution).contiguous()
        expected = subnet(inputs).numpy()
        found = run(inputs.numpy())
        if not np.isfinite(expected).all():
            raise ExportError("the subnet's logits are not finite: its training diverged; train again with a lower lr")
        difference = float(np.maximum(difference, np.abs(found - expected).max()))  # keeps NaN, unlike max()
        largest = max(largest, float(np.abs(expected).max()))
        images_seen += len(labels)
        correct_pytorch += int((expected.argmax(1) == labels.numpy()).sum())
        correct_onnx += int((found.argmax(1) == labels.numpy()).sum())
    relative = difference / max(largest, 1e-12)
    if not relative <= TOLERANCE:
        raise ExportError(
            f"the exported model differs from PyTorch by {relative:.2e} on {images_seen} images, allowed {TOLERANCE}; "
            "this is a fault of the export: please report it with the architecture"
        )
    return Comparison(
        images=images_seen,
        max_relative_difference=relative,
        correct_pytorch=correct_pytorch,
        correct_onnx=correct_onnx,
    )
