"""Training of a ConvNet from scratch: as a child, in one go, or as work in epochs that a kill does not undo."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ofa_kit.data.batches import batches_per_epoch, evaluation_batches, training_batches
from ofa_kit.data.dataset import Dataset, DatasetInfo, ImageSource, part_of
from ofa_kit.nas.nas_rl.conv_net import ConvNet
from ofa_kit.nas.nas_rl.engine import ChildFailedError
from ofa_kit.nas.nas_rl.network import ConvChild
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.supernet.recalibrate import percent_correct
from ofa_kit.training import checkpoint
from ofa_kit.training.epochs import Numbers, Rows
from ofa_kit.training.schedule import learning_rate

COLUMNS = ("epoch", "lr", "loss", "validation_top1", "elapsed_s")
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ChildData:
    """The images that children learn from and are judged on; no test images."""

    info: DatasetInfo
    train: ImageSource
    validation: ImageSource

    @classmethod
    def of(cls, dataset: Dataset, recipe: NasRlRecipe) -> "ChildData":
        """Return the training images, or a part of them, and the held-out ones."""
        return cls(dataset.info, part_of(dataset, recipe.images, recipe.seed), dataset.validation)


@dataclass(frozen=True)
class ChildResult:
    """What a trained child was worth."""

    top1: float
    """Percent of the held-out images: the best of the last epochs."""
    seconds: float


@dataclass(frozen=True)
class ChildTrainer:
    """All that training children takes in any process."""

    recipe: NasRlRecipe
    data: ChildData
    device: str = "cpu"

    def train(self, net: ConvNet) -> ChildResult:
        """Train a child; the same network gives the same result on one thread. A ChildFailedError when it diverges."""
        start_s, recipe = time.perf_counter(), self.recipe
        work = ConvTraining(recipe, net, self.data, Path(), torch.device(self.device))
        tops = []
        for epoch in range(recipe.epochs):
            for step, batch in enumerate(work.batches(epoch, 0)):
                loss = work.step(batch, epoch, step)["loss"]
                if not math.isfinite(loss):
                    raise ChildFailedError(f"diverged: loss {loss} in epoch {epoch + 1}")
            if epoch >= recipe.epochs - recipe.reward_epochs:
                tops.append(work.top1())
        return ChildResult(max(tops), time.perf_counter() - start_s)


class ConvTraining:
    """A network and what moves it; see `training.epochs.Work`. The weights of the best epoch are kept."""

    ended_early = False

    def __init__(
        self,
        recipe: NasRlRecipe,
        net: ConvNet,
        data: ChildData,
        folder: Path,
        device: torch.device,
        *,
        final: bool = False,
    ) -> None:
        self.recipe, self.data, self.device = recipe, data, device
        self.epochs = recipe.final_epochs if final else recipe.epochs
        self.schedule = "cosine" if final else recipe.schedule
        self.steps_per_epoch = batches_per_epoch(data.train, recipe.batch_size)
        self.metrics = folder / "metrics.csv"
        self.logs: Mapping[Path, Sequence[str]] = {self.metrics: COLUMNS}
        self.seed = seed_of(net, recipe.seed)
        self.network = ConvChild.fresh(net, recipe.shape(data.info), self.seed).to(device)
        self.sgd = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        self.best_top1 = -1.0
        self.best: dict[str, Tensor] = {}
        """Weights of the epoch with the highest top-1 on held-out images."""

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield augmented batches."""
        return training_batches(
            self.data.train,
            self.data.info,
            batch_size=self.recipe.batch_size,
            seed=self.seed,
            epoch=epoch,
            start=start,
            pinned=self.device.type == "cuda",
        )

    def step(self, batch: Batch, epoch: int, step: int) -> Numbers:
        """Learn from a batch."""
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        for group in self.sgd.param_groups:
            group["lr"] = self._learning_rate(epoch * self.steps_per_epoch + step)
        self.network.train()
        self.sgd.zero_grad()
        loss = F.cross_entropy(self.network(images), labels)
        loss.backward()
        self.sgd.step()
        return {"loss": loss.item()}

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Judge on held-out images, keep the best weights, and log."""
        top1 = self.top1()
        if top1 > self.best_top1:
            self.best_top1 = top1
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        row = {
            "epoch": epoch + 1,
            "lr": f"{self._learning_rate((epoch + 1) * self.steps_per_epoch - 1):.6g}",
            "loss": f"{means['loss']:.4f}",
            "validation_top1": f"{top1:.2f}",
            "elapsed_s": f"{means['elapsed_s']:.1f}",
        }
        return {self.metrics: [row]}

    def top1(self) -> float:
        """Return top-1 in percent on the held-out images."""
        return percent_correct(self.network, evaluation_batches(self.data.validation, self.data.info))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return weights, momentum and the best weights so far."""
        tensors = checkpoint.with_prefix("network", self.network.state_dict())
        tensors |= checkpoint.with_prefix("sgd", checkpoint.optimizer_tensors(self.sgd))
        return tensors | checkpoint.with_prefix("best", self.best), {"best_top1": self.best_top1}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.network.load_state_dict(checkpoint.without_prefix("network", tensors))
        checkpoint.restore_optimizer(self.sgd, checkpoint.without_prefix("sgd", tensors))
        self.best, self.best_top1 = checkpoint.without_prefix("best", tensors), facts["best_top1"]

    def best_network(self) -> ConvChild:
        """Return the network of the best epoch, on the CPU."""
        self.network.load_state_dict(self.best)
        return self.network.cpu().eval()

    def _learning_rate(self, done: int) -> float:
        if self.schedule == "constant":
            return self.recipe.lr
        return learning_rate(
            self.schedule,
            self.recipe.lr,
            done,
            steps=self.epochs * self.steps_per_epoch,
            steps_per_epoch=self.steps_per_epoch,
            warmup=0,
        )


def seed_of(net: ConvNet, seed: int) -> int:
    """Return the seed of a network's weights and batches, whatever process trains it, whenever."""
    return int(np.random.SeedSequence([seed, int(net.key, 16)]).generate_state(1)[0])
