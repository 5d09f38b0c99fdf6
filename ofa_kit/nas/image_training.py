"""Training of a network from scratch on images as work in epochs: SGD, cutout, dropout, validation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.data.batches import batches_per_epoch, evaluation_batches, training_batches
from ofa_kit.data.cutout import cutout
from ofa_kit.data.dataset import Dataset, ImageSource, part_of
from ofa_kit.nas.cells.network import Dropout
from ofa_kit.nas.image_recipe import ImageRecipe
from ofa_kit.supernet.recalibrate import percent_correct
from ofa_kit.training import checkpoint
from ofa_kit.training.epochs import Numbers, Rows
from ofa_kit.training.losses import wide
from ofa_kit.training.schedule import learning_rate, restarted_cosine

Batch = tuple[Tensor, Tensor]
N = TypeVar("N", bound=nn.Module)


class ImageTraining(Generic[N]):
    """A network, called as `network(images, dropout)`, and what moves it; see `training.epochs.Work`."""

    ended_early = False
    columns: Sequence[str] = ("epoch", "lr", "loss", "validation_top1", "elapsed_s")

    def __init__(
        self, recipe: ImageRecipe, make: Callable[[], N], dataset: Dataset, folder: Path, device: torch.device
    ) -> None:
        self.recipe, self.dataset, self.device = recipe, dataset, device
        self.source: ImageSource = part_of(dataset, recipe.images, recipe.seed)
        self.epochs = recipe.epochs
        self.steps_per_epoch = batches_per_epoch(self.source, recipe.batch_size)
        self.metrics = folder / "metrics.csv"
        self.logs: Mapping[Path, Sequence[str]] = {self.metrics: self.columns}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = make()
        self.network: N = network.to(device)
        self.sgd = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield augmented batches."""
        return training_batches(
            self.source,
            self.dataset.info,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=epoch,
            start=start,
            workers=self.recipe.workers,
            pinned=self.device.type == "cuda",
        )

    def step(self, batch: Batch, epoch: int, step: int) -> Numbers:
        """Learn from a batch; what is blanked and dropped is drawn from (seed, epoch, step)."""
        recipe = self.recipe
        draw = np.random.default_rng([recipe.seed, epoch, step])
        generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
        images = cutout(batch[0], recipe.cutout, generator)
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = batch[1].to(self.device, non_blocking=True)
        for group in self.sgd.param_groups:
            group["lr"] = self._learning_rate(epoch * self.steps_per_epoch + step)
        self.network.train()
        self.sgd.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss, whole = self.losses(images, labels, epoch, generator)
        whole.backward()
        if recipe.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_grad_norm)
        self.sgd.step()
        return {"loss": loss.item()}

    def losses(self, images: Tensor, labels: Tensor, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the loss of the classifier, and what is minimized."""
        loss = self.cross_entropy(self.network(images, self.dropout(generator)), labels)
        return loss, loss

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits (N, classes)."""
        return F.cross_entropy(wide(logits), labels, label_smoothing=self.recipe.label_smoothing)

    def dropout(self, generator: torch.Generator) -> Dropout | None:
        """Return what drops features before the classifier, if the recipe has it."""
        return Dropout(self.recipe.dropout, generator) if self.recipe.dropout else None

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Validate on held-out images where it is time to, and log."""
        return {self.metrics: [self.row(epoch, means)]}

    def row(self, epoch: int, means: Numbers) -> dict[str, object]:
        """Return what is logged of an epoch."""
        number = epoch + 1
        judged = number % self.recipe.eval_every == 0 or number == self.epochs
        return {
            "epoch": number,
            "lr": f"{self._learning_rate(number * self.steps_per_epoch - 1):.6g}",
            "loss": f"{means['loss']:.4f}",
            "validation_top1": f"{self.top1(self.dataset.validation):.2f}" if judged else "",
            "elapsed_s": f"{means['elapsed_s']:.1f}",
        }

    def top1(self, source: ImageSource) -> float:
        """Return top-1 in percent on images as they are."""
        return percent_correct(self.network, evaluation_batches(source, self.dataset.info))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return weights and momentum."""
        tensors = checkpoint.with_prefix("network", self.network.state_dict())
        return tensors | checkpoint.with_prefix("sgd", checkpoint.optimizer_tensors(self.sgd)), {}

    def restore(self, tensors: Mapping[str, Tensor], _facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.network.load_state_dict(checkpoint.without_prefix("network", tensors))
        checkpoint.restore_optimizer(self.sgd, checkpoint.without_prefix("sgd", tensors))

    def _learning_rate(self, done: int) -> float:
        recipe = self.recipe
        if recipe.schedule == "restarts":
            epochs = done / self.steps_per_epoch
            return restarted_cosine(recipe.lr, recipe.lr_min, epochs, first=recipe.restart_epochs, factor=2)
        return learning_rate(
            recipe.schedule,
            recipe.lr,
            done,
            steps=self.epochs * self.steps_per_epoch,
            steps_per_epoch=self.steps_per_epoch,
            warmup=recipe.warmup_epochs * self.steps_per_epoch,
        )
