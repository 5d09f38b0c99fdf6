"""Work on a text, segment by segment: resumable at any moment, and the resumed work ends with the same result.

What is drawn in a step comes from (seed, epoch, segment), and where an epoch is cut from (seed, epoch), so a checkpoint
needs the work's tensors and the position only.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ofa_kit import storage
from ofa_kit.config import parse
from ofa_kit.data.text_batches import Segment, segments
from ofa_kit.errors import RunError
from ofa_kit.training import checkpoint
from ofa_kit.training.interrupt import StopRequest

METRICS = ("epoch", "loss", "tokens_per_s", "elapsed_s")
CHECKPOINT, METRICS_FILE = "last.safetensors", "metrics.csv"
CHECKPOINT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How often, and in which pieces, a text is read."""

    epochs: int
    rows: int
    batch: int
    bptt: int
    deviation: float
    seed: int


@dataclass(frozen=True)
class Step:
    """One segment of training text, and what may be drawn for it."""

    epoch: int
    segment: Segment
    share: float
    """Its length by the usual one: learning rates are scaled by it."""
    generator: torch.Generator


class Work(Protocol):
    """What a loop drives: it keeps all that changes in its tensors and facts."""

    metrics: Sequence[str]
    """Names of what `end_epoch` reports."""

    def begin_epoch(self) -> None:
        """Start at the top of the text."""
        ...

    def step(self, step: Step) -> float:
        """Learn from one segment and return its mean cross-entropy in nats."""
        ...

    def end_epoch(self, epoch: int) -> Mapping[str, str]: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def facts(self) -> dict[str, Any]: ...

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None: ...


@dataclass
class Position:
    """Where the work stands: finished epochs, and segments of the one under way."""

    epoch: int = 0
    segment: int = 0
    rows: int = 0
    loss_sum: float = 0.0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Progress:
    """What a watcher sees after each segment; rows of all epochs."""

    done_rows: int
    total_rows: int
    loss: float
    row: Mapping[str, str] | None = None
    """The metrics row, at the end of an epoch."""


def generator_of(*numbers: int) -> torch.Generator:
    """Return a generator that depends on all numbers."""
    return torch.Generator().manual_seed(int(np.random.default_rng(numbers).integers(2**62)))


class Loop:
    """Drives one work in a folder, from its last checkpoint or the start."""

    def __init__(
        self,
        work: Work,
        schedule: Schedule,
        folder: Path,
        *,
        checkpoint_s: float = CHECKPOINT_S,
        watch: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.work, self.schedule, self.folder, self.watch = work, schedule, folder, watch
        self.checkpoint_s, self.position, self.stop = checkpoint_s, Position(), StopRequest()
        self.saved_s = time.monotonic()
        self.columns = (*METRICS, *work.metrics)
        if self.checkpoint.exists():
            self._restore()
        else:
            self.metrics.unlink(missing_ok=True)  # of an epoch that a kill left without its checkpoint

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def metrics(self) -> Path:
        return self.folder / METRICS_FILE

    def to_the_end(self) -> None:
        """Work until all epochs are over; KeyboardInterrupt leaves a checkpoint."""
        with self.stop.listening():
            while self.position.epoch < self.schedule.epochs:
                self._epoch()

    def _epoch(self) -> None:
        schedule, position = self.schedule, self.position
        start_s, elapsed_before_s, start_row = time.monotonic(), position.elapsed_s, position.rows
        if not position.segment:
            self.work.begin_epoch()
        rng = np.random.default_rng([schedule.seed, position.epoch])
        for segment in segments(schedule.rows, schedule.bptt, rng, deviation=schedule.deviation)[position.segment :]:
            generator = generator_of(schedule.seed, position.epoch, segment.number)
            loss = self.work.step(Step(position.epoch, segment, segment.length / schedule.bptt, generator))
            if not math.isfinite(loss):
                raise RunError(
                    f"training diverged: loss {loss} in epoch {position.epoch + 1}; start another run with a lower lr"
                )
            position.segment += 1
            position.rows += segment.length
            position.loss_sum += loss * segment.length
            position.elapsed_s = elapsed_before_s + time.monotonic() - start_s
            self._report(loss)
            if self.stop.asked:
                self._save()
                raise KeyboardInterrupt
            if time.monotonic() - self.saved_s >= self.checkpoint_s:
                self._save()
        speed = (position.rows - start_row) * schedule.batch / max(time.monotonic() - start_s, 1e-9)
        row = {"epoch": str(position.epoch + 1), "loss": f"{position.loss_sum / position.rows:.5f}"}
        row |= self.work.end_epoch(position.epoch)
        position.elapsed_s = elapsed_before_s + time.monotonic() - start_s
        row |= {"tokens_per_s": f"{speed:.0f}", "elapsed_s": f"{position.elapsed_s:.1f}"}
        storage.append_rows(self.metrics, self.columns, [row])
        self.position = Position(epoch=position.epoch + 1, elapsed_s=position.elapsed_s)
        self._save()
        self._report(float(row["loss"]), row)

    def _report(self, loss: float, row: Mapping[str, str] | None = None) -> None:
        rows = self.schedule.rows
        self.watch(Progress(self.position.epoch * rows + self.position.rows, self.schedule.epochs * rows, loss, row))

    def _save(self) -> None:
        self.saved_s = time.monotonic()
        facts = {"position": asdict(self.position), "work": self.work.facts()}
        checkpoint.save(self.checkpoint, self.work.tensors(), facts)

    def _restore(self) -> None:
        tensors, facts = checkpoint.load(self.checkpoint)
        self.position = parse(Position, facts.get("position") or {}, f"'{self.checkpoint}'")
        try:
            self.work.restore(tensors, facts["work"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise RunError(
                f"'{self.checkpoint}' belongs to other settings: {' '.join(str(error).split())}; start another run"
            ) from error
        rows = storage.read_rows(self.metrics, self.columns)
        storage.keep_rows(self.metrics, self.columns, [row for row in rows if int(row["epoch"]) <= self.position.epoch])
