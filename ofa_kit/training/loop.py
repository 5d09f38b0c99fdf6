"""The training loop: resumable at any moment, and the resumed run ends with the same weights.

Nothing is drawn from hidden state: the subnets of a step come from (seed, phase, step), its images from
(seed, phase, epoch, batch). A checkpoint therefore needs weights, optimizer state and the position only.
"""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ofa_kit import storage
from ofa_kit.data.batches import batches_per_epoch, training_batches
from ofa_kit.data.dataset import Dataset
from ofa_kit.errors import RunError
from ofa_kit.supernet.channel_order import sort_channels
from ofa_kit.supernet.supernet import Supernet, resize
from ofa_kit.training import checkpoint
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.optimizer import make_optimizer, warmed_up_average
from ofa_kit.training.phases import Phase, phases_of
from ofa_kit.training.run import Run
from ofa_kit.training.schedule import learning_rate
from ofa_kit.training.step import Teacher, add_gradients

METRICS = ("phase", "epoch", "step", "lr", "loss", "top1_smallest", "top1_largest", "images_per_s", "elapsed_s")


@dataclass
class Position:
    """Where training stands: finished epochs of a phase and steps of the one under way."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Progress:
    """What a watcher sees after each step."""

    phase: str
    done_steps: int
    total_steps: int
    loss: float
    row: dict[str, Any] | None = None
    """The metrics row, at the end of an epoch."""


def train(run: Run, dataset: Dataset, *, watch: Callable[[Progress], None] = lambda progress: None) -> None:
    """Train the supernet of `run` from its last checkpoint or the start; KeyboardInterrupt leaves a checkpoint."""
    _Training(run, dataset, watch).to_the_end()


class _Training:
    """The moving parts of one run."""

    def __init__(self, run: Run, dataset: Dataset, watch: Callable[[Progress], None]) -> None:
        self.run, self.recipe, self.dataset, self.watch = run, run.recipe, dataset, watch
        self.phases = phases_of(self.recipe, run.space)
        self.steps_per_epoch = batches_per_epoch(dataset.train, self.recipe.batch_size)
        self.supernet = Supernet(run.space, torch.Generator().manual_seed(self.recipe.seed))
        self.position = Position()
        self.saved_s = time.monotonic()
        self.stop_asked = False
        self._start_phase()
        if run.last_checkpoint.exists():
            self._restore()
        else:
            run.metrics.unlink(missing_ok=True)  # of an epoch that a kill left without its checkpoint

    def to_the_end(self) -> None:
        with self._stopping_gently():
            while self.position.phase < len(self.phases):
                while self.position.epoch < self.phase.epochs:
                    self._epoch()
                self._end_phase()
        self.run.save_supernet(self._averaged_state())

    @property
    def phase(self) -> Phase:
        return self.phases[min(self.position.phase, len(self.phases) - 1)]

    def _epoch(self) -> None:
        recipe, position = self.recipe, self.position
        start_s, start_step = time.monotonic(), position.step
        elapsed_before_s = position.elapsed_s
        batches = training_batches(
            self.dataset.train,
            self.dataset.info,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            epoch=position.phase * 100_000 + position.epoch,
            start=position.step,
            workers=recipe.workers,
        )
        for images, labels in batches:
            loss = self._step(images, labels)
            position.step += 1
            position.loss_sum += loss
            position.elapsed_s = elapsed_before_s + time.monotonic() - start_s
            self.watch(Progress(self.phase.name, self._done_steps(), self._total_steps(), loss))
            if self.stop_asked:
                self._save()
                raise KeyboardInterrupt
            if time.monotonic() - self.saved_s >= recipe.checkpoint_s:
                self._save()
        trained = (position.step - start_step) * recipe.batch_size
        row = self._metrics_row(images_per_s=trained / max(time.monotonic() - start_s, 1e-9))
        storage.append_rows(self.run.metrics, METRICS, [row])
        position.epoch, position.step, position.loss_sum = position.epoch + 1, 0, 0.0
        self._save()
        self.watch(Progress(self.phase.name, self._done_steps(), self._total_steps(), float(row["loss"]), row))

    def _step(self, images: Tensor, labels: Tensor) -> float:
        done = self.position.epoch * self.steps_per_epoch + self.position.step
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(done)
        rng = np.random.default_rng([self.recipe.seed, self.position.phase, done])
        self.supernet.train()
        self.optimizer.zero_grad()
        loss = add_gradients(
            self.supernet,
            images,
            labels,
            self.phase.rule.passes(rng),
            label_smoothing=self.recipe.label_smoothing,
            teacher=self.teacher,
        )
        if not math.isfinite(loss):
            raise RunError(
                f"training diverged: loss {loss} in phase {self.phase.name}, epoch {self.position.epoch + 1}; "
                "start another run with a lower lr (--set lr=...)"
            )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.supernet)
        return loss

    def _learning_rate(self, done: int) -> float:
        return learning_rate(
            self.recipe.schedule,
            self.phase.lr,
            done,
            steps=self.phase.epochs * self.steps_per_epoch,
            steps_per_epoch=self.steps_per_epoch,
            warmup=self.phase.warmup_epochs * self.steps_per_epoch,
        )

    def _metrics_row(self, images_per_s: float) -> dict[str, Any]:
        position = self.position
        number = position.epoch + 1
        row: dict[str, Any] = {
            "phase": self.phase.name,
            "epoch": number,
            "step": number * self.steps_per_epoch,
            "lr": f"{self._learning_rate(number * self.steps_per_epoch - 1):.6g}",
            "loss": f"{position.loss_sum / self.steps_per_epoch:.4f}",
            "images_per_s": f"{images_per_s:.0f}",
        }
        if number % self.recipe.eval_every == 0 or number == self.phase.epochs:
            start_s = time.monotonic()
            row |= self._validate()
            position.elapsed_s += time.monotonic() - start_s
        return row | {"elapsed_s": f"{position.elapsed_s:.1f}"}

    def _validate(self) -> dict[str, str]:
        supernet = Supernet(self.run.space)
        supernet.load_state_dict(self._averaged_state())
        evaluator = Evaluator(
            self.dataset, calibration=self.recipe.calibration_images, validation=self.recipe.validation_images
        )
        archs = {"top1_smallest": self.run.space.smallest(), "top1_largest": self.run.space.largest()}
        return {name: f"{evaluator.top1(supernet, arch):.2f}" for name, arch in archs.items()}

    def _start_phase(self) -> None:
        """Begin a phase with a fresh optimizer, a fresh average and its teacher."""
        self.optimizer = make_optimizer(self.supernet, self.recipe)
        decay = self.recipe.ema_decay
        self.average = (
            AveragedModel(self.supernet, multi_avg_fn=warmed_up_average(decay), use_buffers=True) if decay else None
        )
        self.teacher = load_teacher(self.run, self.dataset) if self.phase.teacher else no_teacher

    def _end_phase(self) -> None:
        self.supernet.load_state_dict(self._averaged_state())
        if self.position.phase == 0 and len(self.phases) > 1:
            checkpoint.save(self.run.teacher, self.supernet.state_dict(), {"space": self.run.space.name})
        self.position = Position(phase=self.position.phase + 1, elapsed_s=self.position.elapsed_s)
        if self.position.phase < len(self.phases):
            if self.phase.sort_before is not None:
                sort_channels(self.supernet, self.phase.sort_before)
            self._start_phase()
            self._save()

    def _averaged_state(self) -> dict[str, Tensor]:
        return (self.supernet if self.average is None else self.average.module).state_dict()

    def _save(self) -> None:
        tensors = checkpoint.with_prefix("supernet", self.supernet.state_dict())
        tensors |= checkpoint.with_prefix("optimizer", checkpoint.optimizer_tensors(self.optimizer))
        if self.average is not None:
            tensors |= checkpoint.with_prefix("average", self.average.state_dict())
        checkpoint.save(self.run.last_checkpoint, tensors, asdict(self.position))
        self.saved_s = time.monotonic()

    def _restore(self) -> None:
        tensors, facts = checkpoint.load(self.run.last_checkpoint)
        self.position = Position(**facts)
        self.supernet.load_state_dict(checkpoint.without_prefix("supernet", tensors))
        self._start_phase()
        checkpoint.restore_optimizer(self.optimizer, checkpoint.without_prefix("optimizer", tensors))
        if self.average is not None:
            self.average.load_state_dict(checkpoint.without_prefix("average", tensors))
        finished = [phase.name for phase in self.phases[: self.position.phase]]
        rows = storage.read_rows(self.run.metrics, METRICS)
        kept = [
            row
            for row in rows
            if row["phase"] in finished
            or (row["phase"] == self.phase.name and int(row["epoch"]) <= self.position.epoch)
        ]
        storage.keep_rows(self.run.metrics, METRICS, kept)

    def _done_steps(self) -> int:
        finished = sum(phase.epochs for phase in self.phases[: self.position.phase])
        return (finished + self.position.epoch) * self.steps_per_epoch + self.position.step

    def _total_steps(self) -> int:
        return sum(phase.epochs for phase in self.phases) * self.steps_per_epoch

    @contextmanager
    def _stopping_gently(self) -> Iterator[None]:
        """Let Ctrl-C end the step under way and save; a second one interrupts at once."""

        def ask(_number: int, _frame: object) -> None:
            if self.stop_asked:
                raise KeyboardInterrupt
            self.stop_asked = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def load_teacher(run: Run, dataset: Dataset) -> Teacher:
    """Return the largest network of the first phase, recalibrated for each resolution."""
    supernet = Supernet(run.space)
    supernet.load_state_dict(checkpoint.load(run.teacher)[0])
    evaluator = Evaluator(dataset, calibration=run.recipe.calibration_images)
    largest = run.space.largest()
    subnets = {
        r: evaluator.recalibrated(supernet, dataclasses.replace(largest, resolution=r)) for r in run.space.resolutions
    }

    @torch.no_grad()
    def logits(images: Tensor, resolution: int) -> Tensor:
        found: Tensor = subnets[resolution](resize(images, resolution))
        return found

    return logits


def no_teacher(images: Tensor, resolution: int) -> Tensor:
    """Stand in where no pass of the rule asks for a teacher."""
    raise AssertionError("this phase has no teacher")
