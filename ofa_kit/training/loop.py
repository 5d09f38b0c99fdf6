"""The training loop: resumable at any moment, and the resumed run ends with the same weights.

Nothing is drawn from hidden state: the subnets and the noise of a step come from (seed, phase, step), its images from
(seed, phase, epoch, batch). A checkpoint therefore needs weights, optimizer state and the position only. All
processes of a team draw the same subnets; the first one validates and writes.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ofa_kit import storage
from ofa_kit.config import parse
from ofa_kit.data.batches import batches_per_epoch, training_batches
from ofa_kit.data.dataset import Dataset
from ofa_kit.errors import RunError
from ofa_kit.supernet.channel_order import sort_channels
from ofa_kit.supernet.supernet import Supernet, fix_affine, zero_last_gammas
from ofa_kit.supernet.sync_batch_norm import synchronize_batch_norm
from ofa_kit.training import checkpoint
from ofa_kit.training.board import Board
from ofa_kit.training.distributed import Team
from ofa_kit.training.initial import load_initial
from ofa_kit.training.interrupt import StopRequest
from ofa_kit.training.optimizer import make_optimizer, warmed_up_average
from ofa_kit.training.phases import Phase, phases_of
from ofa_kit.training.position import Position, Progress
from ofa_kit.training.run import Run
from ofa_kit.training.schedule import learning_rate
from ofa_kit.training.step import Step, no_teacher
from ofa_kit.training.validation import Validator, load_teacher

METRICS = ("phase", "epoch", "step", "lr", "loss", "top1_smallest", "top1_largest", "images_per_s", "elapsed_s")


def train(
    run: Run,
    dataset: Dataset,
    *,
    team: Team | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train the supernet of `run` from its last checkpoint or the start; KeyboardInterrupt leaves a checkpoint."""
    _Training(run, dataset, team or Team.join(run.recipe.accelerator), watch).to_the_end()


class _Training:
    """The moving parts of one run in one process."""

    def __init__(self, run: Run, dataset: Dataset, team: Team, watch: Callable[[Progress], None]) -> None:
        self.run, self.recipe, self.dataset, self.team, self.watch = run, run.recipe, dataset, team, watch
        if self.recipe.batch_size % (team.size * self.recipe.accumulate):
            raise RunError(
                f"batch_size {self.recipe.batch_size} cannot be cut into {team.size} processes x accumulate "
                f"{self.recipe.accumulate} equal parts; change one of them"
            )
        self.phases = phases_of(self.recipe, run.space)
        self.steps_per_epoch = batches_per_epoch(dataset.train, self.recipe.batch_size)
        self.supernet = self._fresh_supernet()
        self.step = Step(self.supernet, self.recipe, team.device)
        self.position = Position()
        self.saved_s = time.monotonic()
        self.stop = StopRequest()
        resumes = run.last_checkpoint.exists()
        team.wait()  # no process may write a checkpoint before all have looked for one
        if resumes:
            self._restore()
        else:
            self._start_phase()
        if not resumes and team.is_first:
            run.metrics.unlink(missing_ok=True)  # of an epoch that a kill left without its checkpoint

    def to_the_end(self) -> None:
        with self.stop.listening():
            while self.position.phase < len(self.phases):
                while self.position.epoch < self.phase.epochs:
                    self._epoch()
                self._end_phase()
        if self.team.is_first:
            self.run.save_supernet(self._averaged_state())
        self.team.wait()

    @property
    def phase(self) -> Phase:
        return self.phases[min(self.position.phase, len(self.phases) - 1)]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.recipe.precision == "fp64" else torch.float32

    def _fresh_supernet(self) -> Supernet:
        supernet = Supernet(self.run.space, torch.Generator().manual_seed(self.recipe.seed))
        if self.recipe.zero_init_gamma:
            zero_last_gammas(supernet)
        if not self.recipe.bn_affine:
            fix_affine(supernet)
        if self.recipe.init_from and not self.run.last_checkpoint.exists():
            load_initial(supernet, self.recipe.init_from)
        if self.team.size > 1 and self.recipe.sync_batch_norm:
            synchronize_batch_norm(supernet)
        return supernet.to(self.team.device, self.dtype)

    def _epoch(self) -> None:
        recipe, position, team = self.recipe, self.position, self.team
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
            part=(team.rank, team.size),
            pinned=team.device.type == "cuda",
        )
        for images, labels in batches:
            loss = self._step(
                images.to(team.device, self.dtype, non_blocking=True, memory_format=torch.channels_last),
                labels.to(team.device, non_blocking=True),
            )
            position.step += 1
            position.loss_sum += loss
            position.elapsed_s = elapsed_before_s + time.monotonic() - start_s
            self.watch(Progress(self.phase.name, self._done_steps(), self._total_steps(), loss))
            if self.stop.asked:
                self._save()
                team.wait()
                raise KeyboardInterrupt
            if time.monotonic() - self.saved_s >= recipe.checkpoint_s:
                self._save()
        trained = (position.step - start_step) * recipe.batch_size
        row = self._metrics_row(images_per_s=trained / max(time.monotonic() - start_s, 1e-9))
        if team.is_first:
            storage.append_rows(self.run.metrics, METRICS, [row])
        position.epoch, position.step, position.loss_sum = position.epoch + 1, 0, 0.0
        self._save()
        if self.board:
            self.board.add(row, self._done_steps())
        self.watch(Progress(self.phase.name, self._done_steps(), self._total_steps(), float(row["loss"]), row))

    def _step(self, images: Tensor, labels: Tensor) -> float:
        done = self.position.epoch * self.steps_per_epoch + self.position.step
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(done)
        seeds = [self.recipe.seed, self.position.phase, done]
        self.supernet.train()
        self.optimizer.zero_grad()
        passes = self.phase.rule.passes(
            np.random.default_rng(seeds), lambda arch: self.team.mean(self.step.loss_of(arch, images, labels))
        )
        noise_seed = int(np.random.default_rng([*seeds, self.team.rank]).integers(2**62))
        loss = self.team.mean(self.step.add_gradients(images, labels, passes, noise_seed))
        if not math.isfinite(loss):
            raise RunError(
                f"training diverged: loss {loss} in phase {self.phase.name}, epoch {self.position.epoch + 1}; "
                "start another run with a lower lr (--set lr=...)"
            )
        self.stop.asked = self.team.average_gradients(list(self.supernet.parameters()), self.stop.asked)
        self.step.update(self.optimizer)
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
            row |= self.validator.ends(self._averaged_state()) if self.team.is_first else {}
            position.elapsed_s += time.monotonic() - start_s
        return row | {"elapsed_s": f"{position.elapsed_s:.1f}"}

    @cached_property
    def validator(self) -> Validator:
        return Validator(self.run, self.dataset, self.team.device)

    @cached_property
    def board(self) -> Board | None:
        if not self.recipe.tensorboard or not self.team.is_first:
            return None
        return Board(self.run.folder / "tensorboard", purge_step=self._done_steps())

    def _start_phase(self) -> None:
        """Begin a phase with a fresh optimizer, a fresh average and its teacher."""
        self.optimizer = make_optimizer(self.supernet, self.recipe)
        decay = self.recipe.ema_decay
        self.average = (
            AveragedModel(self.supernet, multi_avg_fn=warmed_up_average(decay), use_buffers=True) if decay else None
        )
        self.step.teacher = load_teacher(self.run, self.dataset, self.team.device) if self.phase.teacher else no_teacher
        if self.recipe.compile:
            self.step.compile(self.phase.rule.fixed)

    def _end_phase(self) -> None:
        self.supernet.load_state_dict(self._averaged_state())
        if self.position.phase == 0 and len(self.phases) > 1 and self.team.is_first:
            checkpoint.save(self.run.teacher, self.supernet.state_dict(), {"space": self.run.space.name})
        self.team.wait()
        self.position = Position(phase=self.position.phase + 1, elapsed_s=self.position.elapsed_s)
        if self.position.phase < len(self.phases):
            if self.phase.sort_before is not None:
                sort_channels(self.supernet, self.phase.sort_before)
            self._start_phase()
            self._save()

    def _averaged_state(self) -> dict[str, Tensor]:
        return (self.supernet if self.average is None else self.average.module).state_dict()

    def _save(self) -> None:
        self.saved_s = time.monotonic()
        if not self.team.is_first:
            return
        self.position.scaler = self.step.scaler.state_dict() or None
        tensors = checkpoint.with_prefix("supernet", self.supernet.state_dict())
        tensors |= checkpoint.with_prefix("optimizer", checkpoint.optimizer_tensors(self.optimizer))
        if self.average is not None:
            tensors |= checkpoint.with_prefix("average", self.average.state_dict())
        checkpoint.save(self.run.last_checkpoint, tensors, asdict(self.position))

    def _restore(self) -> None:
        tensors, facts = checkpoint.load(self.run.last_checkpoint)
        self.position = parse(Position, facts, f"'{self.run.last_checkpoint}'")
        if not 0 <= self.position.phase <= len(self.phases):
            raise RunError(f"'{self.run.last_checkpoint}' stands at phase {self.position.phase}, the recipe has fewer")
        self.supernet.load_state_dict(checkpoint.without_prefix("supernet", tensors))
        self._start_phase()
        if self.position.scaler:
            self.step.scaler.load_state_dict(self.position.scaler)
        checkpoint.restore_optimizer(self.optimizer, checkpoint.without_prefix("optimizer", tensors))
        if self.average is not None:
            self.average.load_state_dict(checkpoint.without_prefix("average", tensors))
        if not self.team.is_first:
            return
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
