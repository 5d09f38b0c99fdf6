"""One training step: the gradients of several subnets added up, in the recipe's precision."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ofa_kit.arch.config import ArchConfig
from ofa_kit.supernet.elastic import Noise
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.losses import DISTILLATION, soft_cross_entropy, wide
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.rules import Pass

Teacher = Callable[[Tensor, int], Tensor]
"""Logits (N, classes) of a fixed network for images at a resolution."""
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def no_teacher(images: Tensor, resolution: int) -> Tensor:
    """Stand in where no pass of the rule asks for a teacher."""
    raise AssertionError("this phase has no teacher")


class Step:
    """Computes losses and gradients of a supernet on one device."""

    def __init__(self, supernet: Supernet, recipe: Recipe, device: torch.device) -> None:
        self.supernet, self.recipe, self.device = supernet, recipe, device
        self.teacher: Teacher = no_teacher
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.compiled: dict[ArchConfig, Callable[[Tensor], Tensor]] = {}

    def add_gradients(self, images: Tensor, labels: Tensor, passes: Sequence[Pass], noise_seed: int) -> float:
        """Run the passes forward and backward, part by part of the batch; return the loss of the first pass."""
        parts = self.recipe.accumulate
        noise = self._noise(noise_seed)
        losses = [
            self._add_part(part_images, part_labels, passes, noise)
            for part_images, part_labels in zip(images.chunk(parts), labels.chunk(parts), strict=True)
        ]
        return float(torch.stack(losses).mean())

    def loss_of(self, arch: ArchConfig, images: Tensor, labels: Tensor) -> float:
        """Return the cross-entropy of a subnet on the images, with batch statistics and without a gradient."""
        with torch.no_grad(), self._autocast():
            return float(F.cross_entropy(wide(self.supernet(images, arch)), labels))

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the weights by their gradients, clipped where the recipe says so."""
        value, norm = self.recipe.clip_grad_value, self.recipe.clip_grad_norm
        if value or norm:
            self.scaler.unscale_(optimizer)
        if value:
            torch.nn.utils.clip_grad_value_(self.supernet.parameters(), value)
        if norm:
            torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), norm)
        self.scaler.step(optimizer)
        self.scaler.update()

    def compile(self, archs: Sequence[ArchConfig]) -> None:
        """Compile the subnets that every step trains; others are too many to compile."""

        def forward_of(arch: ArchConfig) -> Callable[[Tensor], Tensor]:
            return torch.compile(lambda images: self.supernet(images, arch), dynamic=False)

        self.compiled = {arch: forward_of(arch) for arch in archs}

    def _add_part(self, images: Tensor, labels: Tensor, passes: Sequence[Pass], noise: Noise | None) -> Tensor:
        """Return the loss of the first pass."""
        first_loss = largest_output = None
        for item in passes:
            with self._autocast():
                logits = self._logits(images, item, noise)
                loss = self._loss(item, logits, images, labels, largest_output)
            self.scaler.scale(loss / self.recipe.accumulate).backward()
            if first_loss is None or largest_output is None:
                first_loss, largest_output = loss.detach(), logits.detach()
        assert first_loss is not None, "a step trains at least one subnet"
        return first_loss

    def _logits(self, images: Tensor, item: Pass, noise: Noise | None) -> Tensor:
        if item.regularized and noise is not None:
            logits: Tensor = self.supernet(images, item.arch, noise)
            return logits
        if item.arch in self.compiled:
            return self.compiled[item.arch](images)
        found: Tensor = self.supernet(images, item.arch)
        return found

    def _loss(self, item: Pass, logits: Tensor, images: Tensor, labels: Tensor, largest: Tensor | None) -> Tensor:
        if item.target == "largest":
            assert largest is not None, "the first pass of a step learns from labels"
            share = self.recipe.label_share
            soft = DISTILLATION[self.recipe.distillation](logits, largest)
            return (1 - share) * soft + share * self._label_loss(logits, labels) if share else soft
        loss = self._label_loss(logits, labels)
        if item.target == "teacher":
            loss = loss + soft_cross_entropy(logits, self.teacher(images, item.arch.resolution))
        return loss

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(wide(logits), labels, label_smoothing=self.recipe.label_smoothing)

    def _autocast(self) -> Any:
        half = HALF.get(self.recipe.precision)
        return torch.autocast(self.device.type, half, enabled=half is not None)

    def _noise(self, seed: int) -> Noise | None:
        recipe = self.recipe
        if not recipe.dropout and not recipe.drop_connect:
            return None
        return Noise(recipe.dropout, recipe.drop_connect, torch.Generator().manual_seed(seed))
