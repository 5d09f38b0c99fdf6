"""A search by shared weights as work in epochs: the child learns, a new sample for each batch, then the controller."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.data.batches import batches_per_epoch, evaluation_batches, training_batches
from ofa_kit.data.dataset import Dataset, ImageSource, hold_out, part_of
from ofa_kit.nas.cells.network import Dropout
from ofa_kit.nas.enas.recipe import EnasRecipe
from ofa_kit.nas.reinforce.controller import Controller
from ofa_kit.nas.reinforce.policy import Policy
from ofa_kit.training import checkpoint
from ofa_kit.training.epochs import Numbers, Rows
from ofa_kit.training.schedule import restarted_cosine

COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "reward",
    "baseline",
    "entropy",
    "penalty",
    "sampled_ms_predicted",
    "best_reward",
    "latency_ms_predicted",
    "genotype",
    "elapsed_s",
)
Batch = tuple[Tensor, Tensor]
A = TypeVar("A")
"""The architectures that are searched."""


@dataclass(frozen=True)
class Judged(Generic[A]):
    """An architecture and what it earned on one batch."""

    arch: A
    reward: float


class SharedSearch(ABC, Generic[A]):
    """A child, a controller and what moves them; see `training.epochs.Work`.

    An epoch has a step for each batch of the child's images and then one for each update of the controller.
    """

    ended_early = False
    auxiliary_weight = 0.0
    """Of the loss of the child's auxiliary head, where it has one."""

    def __init__(
        self,
        recipe: EnasRecipe,
        dataset: Dataset,
        folder: Path,
        device: torch.device,
        latency_ms: Callable[[A], float] | None = None,
    ) -> None:
        self.recipe, self.dataset, self.device, self.latency_ms = recipe, dataset, device, latency_ms
        self.term = recipe.latency_term
        self.learned: ImageSource
        self.held: ImageSource
        self.learned, self.held = hold_out(part_of(dataset, recipe.images, recipe.seed), recipe.held_out, recipe.seed)
        self.epochs = recipe.epochs
        self.child_steps = batches_per_epoch(self.learned, recipe.batch_size)
        self.steps_per_epoch = self.child_steps + recipe.controller_updates
        self.metrics = folder / "search.csv"
        self.logs: Mapping[Path, Sequence[str]] = {self.metrics: COLUMNS}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            child = self.fresh_child()
        self.child = child.to(device).to(memory_format=torch.channels_last)
        self.sgd = self._optimizer()
        self.policy = Policy(self.fresh_controller(torch.Generator().manual_seed(recipe.seed)), recipe.policy)
        self.best: Judged[A] | None = None
        """The highest reward of the epoch under way."""

    @abstractmethod
    def fresh_child(self) -> nn.Module:
        """Return a child with random weights."""

    @abstractmethod
    def fresh_controller(self, generator: torch.Generator) -> Controller:
        """Return a controller at its start."""

    @abstractmethod
    def logits(self, images: Tensor, arch: A, dropout: Dropout | None) -> tuple[Tensor, Tensor | None]:
        """Return the child's logits (N, classes) of an architecture and those of its auxiliary head, if it has one."""

    @abstractmethod
    def archs(self, tokens: Tensor) -> list[A]:
        """Return the architectures that the controller's (N, T) tokens decide."""

    @abstractmethod
    def write(self, arch: A) -> str:
        """Return the text form of an architecture, on one line."""

    @abstractmethod
    def read(self, text: str) -> A:
        """Return what was written."""

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield augmented batches for the child, then held-out ones for the controller."""
        if start < self.child_steps:
            yield from (self._here(batch) for batch in self._child_batches(epoch, start))
        for update in range(max(0, start - self.child_steps), self.recipe.controller_updates):
            yield self._held_batch(epoch, update)

    def step(self, batch: Batch, epoch: int, step: int) -> Numbers:
        """Move the child or the controller; what is drawn comes from (seed, epoch, step)."""
        draw = np.random.default_rng([self.recipe.seed, epoch, step])
        generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
        if step < self.child_steps:
            return {"train_loss": self._move_child(batch, epoch, step, generator)}
        return self._move_controller(batch, generator)

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Log the epoch and forget its best architecture."""
        best, updates = self.best, self.recipe.controller_updates
        assert best is not None
        row: dict[str, object] = {
            "epoch": epoch + 1,
            "lr": f"{self._learning_rate(epoch, self.child_steps - 1):.6g}",
            "train_loss": f"{self._mean(means, 'train_loss', self.child_steps):.4f}",
            "elapsed_s": f"{means['elapsed_s']:.1f}",
            "best_reward": f"{best.reward:.4f}",
            "genotype": self.write(best.arch),
        }
        row |= {key: f"{self._mean(means, key, updates):.4f}" for key in ("reward", "baseline", "entropy", "penalty")}
        if self.latency_ms is not None:
            row["sampled_ms_predicted"] = f"{self._mean(means, 'sampled_ms', updates):.4f}"
            row["latency_ms_predicted"] = f"{self.latency_ms(best.arch):.4f}"
        self.best = None
        return {self.metrics: [row]}

    def reward(self, arch: A, accuracy: float) -> float:
        """Return what an accuracy in 0..1 earns, with the latency's factor where one is asked for."""
        if self.term is None or self.latency_ms is None:
            return accuracy
        return accuracy * self.term.factor(self.latency_ms(arch))

    @torch.no_grad()
    def correct(self, arch: A, batch: Batch) -> int:
        """Return how many images of a batch an architecture classifies right, with the shared weights."""
        self.child.eval()
        images, labels = batch
        return int((self.logits(images, arch, None)[0].argmax(1) == labels).sum())

    def held_batches(self) -> list[Batch]:
        """Return all held-out images in a shuffled order, so that each batch has the statistics of all classes.

        What is left of a whole number of batches is left out, for a small batch has poor statistics.
        """
        count, size = len(self.held.labels), self._reward_images
        order = np.random.default_rng(self.recipe.seed).permutation(count)[: count // size * size or count]
        found = evaluation_batches(self.held, self.dataset.info, batch_size=size, indices=order)
        return [self._here(batch) for batch in found]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return weights, momentum, controller and baseline."""
        tensors, facts = self.policy.state()
        tensors |= checkpoint.with_prefix("child", self.child.state_dict())
        tensors |= checkpoint.with_prefix("sgd", checkpoint.optimizer_tensors(self.sgd))
        best = None if self.best is None else [self.best.reward, self.write(self.best.arch)]
        return tensors, {**facts, "best": best}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.policy.restore(tensors, facts)
        self.child.load_state_dict(checkpoint.without_prefix("child", tensors))
        checkpoint.restore_optimizer(self.sgd, checkpoint.without_prefix("sgd", tensors))
        self.best = None if facts["best"] is None else Judged(self.read(facts["best"][1]), facts["best"][0])

    def _move_child(self, batch: Batch, epoch: int, step: int, generator: torch.Generator) -> float:
        recipe, (images, labels) = self.recipe, batch
        (arch,) = self.archs(self.policy.sample(1, generator).tokens)
        for group in self.sgd.param_groups:
            group["lr"] = self._learning_rate(epoch, step)
        self.child.train()
        self.sgd.zero_grad()
        dropout = Dropout(recipe.dropout, generator) if recipe.dropout else None
        logits, extra = self.logits(images, arch, dropout)
        loss = whole = F.cross_entropy(logits, labels)
        if extra is not None:
            whole = loss + self.auxiliary_weight * F.cross_entropy(extra, labels)
        whole.backward()
        if recipe.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.child.parameters(), recipe.clip_grad_norm)
        self.sgd.step()
        return loss.item()

    def _move_controller(self, batch: Batch, generator: torch.Generator) -> Numbers:
        tokens = self.policy.sample(self.recipe.controller_samples, generator).tokens
        archs = self.archs(tokens)
        count = len(batch[1])
        judged = [Judged(arch, self.reward(arch, self.correct(arch, batch) / count)) for arch in archs]
        best = max(judged, key=lambda found: found.reward)
        if self.best is None or best.reward > self.best.reward:
            self.best = best
        learned = self.policy.update(tokens, [found.reward for found in judged])
        found = {key: getattr(learned, key) for key in ("reward", "baseline", "entropy", "penalty")}
        if self.latency_ms is not None:
            found["sampled_ms"] = float(np.mean([self.latency_ms(arch) for arch in archs]))
        return found

    def _optimizer(self) -> torch.optim.SGD:
        recipe = self.recipe
        sgd = torch.optim.SGD(
            self.child.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
        if recipe.momentum:  # the fused kernel wants buffers of all or none, and a step leaves most weights out
            for parameter in self.child.parameters():
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd

    def _child_batches(self, epoch: int, start: int) -> Iterator[Batch]:
        return training_batches(
            self.learned,
            self.dataset.info,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=epoch,
            start=start,
            workers=self.recipe.workers,
            pinned=self.device.type == "cuda",
        )

    @property
    def _reward_images(self) -> int:
        return self.recipe.reward_images or self.recipe.batch_size

    def _held_batch(self, epoch: int, update: int) -> Batch:
        count, size = len(self.held.labels), self._reward_images
        order = np.random.default_rng([self.recipe.seed, epoch, update]).permutation(count)[:size]
        return self._here(next(evaluation_batches(self.held, self.dataset.info, batch_size=size, indices=order)))

    def _here(self, batch: Batch) -> Batch:
        images = batch[0].to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return images, batch[1].to(self.device, non_blocking=True)

    def _mean(self, means: Numbers, name: str, steps: int) -> float:
        """Return the mean over the steps that have such a number: means are given over all steps of an epoch."""
        return means[name] * self.steps_per_epoch / steps

    def _learning_rate(self, epoch: int, step: int) -> float:
        recipe = self.recipe
        done = epoch + step / self.child_steps
        return restarted_cosine(
            recipe.lr, recipe.lr_min, done, first=recipe.restart_epochs, factor=recipe.restart_factor
        )
