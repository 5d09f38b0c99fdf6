"""Epochs of batches that can be killed at any moment and resumed to the same result: for what is no supernet.

The work draws what it needs from (seed, epoch, step), so a checkpoint holds its tensors and the position only. Rows of
logs that a kill left behind without their checkpoint are cut off when the work goes on.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ofa_kit import storage
from ofa_kit.config import parse
from ofa_kit.errors import DivergedError
from ofa_kit.training import checkpoint
from ofa_kit.training.interrupt import StopRequest

Numbers = Mapping[str, float]
"""Losses by name."""
Rows = Mapping[Path, Sequence[Mapping[str, object]]]
"""Rows by the log that they belong to; each has an `epoch`."""


class Work(Protocol):
    """What is repeated: steps of epochs, each judged at its end."""

    epochs: int
    steps_per_epoch: int
    logs: Mapping[Path, Sequence[str]]
    """Columns of each log."""

    @property
    def ended_early(self) -> bool:
        """Whether no further epoch is wanted."""
        ...

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield the batches of an epoch from step `start` on."""
        ...

    def step(self, batch: Any, epoch: int, step: int) -> Numbers:
        """Learn from a batch and return its losses."""
        ...

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Judge the epoch, whose mean losses and `elapsed_s` are given; return the rows that go to the logs."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and plain facts that bring the work back to where it stands."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        ...


@dataclass
class Position:
    """Where the work stands: finished epochs, steps of the one under way and the sums of its losses."""

    epoch: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What a watcher sees after each step and, with `rows`, after each epoch."""

    done_steps: int
    total_steps: int
    losses: Numbers
    rows: Rows | None = None


def work_through(
    work: Work,
    checkpoint_file: Path,
    *,
    checkpoint_s: float,
    watch: Callable[[Seen], None] = lambda seen: None,
) -> Position:
    """Do what is left of the work, from its checkpoint or the start; KeyboardInterrupt leaves a checkpoint."""
    return _Epochs(work, checkpoint_file, checkpoint_s, watch).to_the_end()


class _Epochs:
    def __init__(self, work: Work, file: Path, checkpoint_s: float, watch: Callable[[Seen], None]) -> None:
        self.work, self.file, self.checkpoint_s, self.watch = work, file, checkpoint_s, watch
        self.position = Position()
        self.saved_s = time.monotonic()
        self.stop = StopRequest()
        if file.exists():
            self._restore()
        else:
            for log in work.logs:
                log.unlink(missing_ok=True)

    def to_the_end(self) -> Position:
        with self.stop.listening():
            while self.position.epoch < self.work.epochs and not self.work.ended_early:
                self._epoch()
        return self.position

    def _epoch(self) -> None:
        position = self.position
        since_s = time.monotonic() - position.elapsed_s
        for batch in self.work.batches(position.epoch, position.step):
            losses = self.work.step(batch, position.epoch, position.step)
            self._refuse_divergence(losses)
            position.step += 1
            position.elapsed_s = time.monotonic() - since_s
            for name, loss in losses.items():
                position.sums[name] = position.sums.get(name, 0.0) + loss
            self.watch(Seen(self._done, self._total, losses))
            if self.stop.asked:
                self._save()
                raise KeyboardInterrupt
            if time.monotonic() - self.saved_s >= self.checkpoint_s:
                self._save()
        means = {name: total / self.work.steps_per_epoch for name, total in position.sums.items()}
        rows = self.work.end_epoch(position.epoch, means | {"elapsed_s": position.elapsed_s})
        position.elapsed_s = time.monotonic() - since_s
        for log, new in rows.items():
            storage.append_rows(log, self.work.logs[log], new)
        position.epoch, position.step, position.sums = position.epoch + 1, 0, {}
        self._save()
        self.watch(Seen(self._done, self._total, means, rows))

    def _refuse_divergence(self, losses: Numbers) -> None:
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise DivergedError(
                    f"training diverged: {name} {loss} in epoch {self.position.epoch + 1}; "
                    "start another run with a lower lr (--set lr=...)"
                )

    def _save(self) -> None:
        tensors, self.position.facts = self.work.state()
        checkpoint.save(self.file, tensors, asdict(self.position))
        self.saved_s = time.monotonic()

    def _restore(self) -> None:
        tensors, facts = checkpoint.load(self.file)
        self.position = parse(Position, facts, f"'{self.file}'")
        self.work.restore(tensors, self.position.facts)
        for log, columns in self.work.logs.items():
            kept = [row for row in storage.read_rows(log, columns) if int(row["epoch"]) <= self.position.epoch]
            storage.keep_rows(log, columns, kept)

    @property
    def _done(self) -> int:
        return self.position.epoch * self.work.steps_per_epoch + self.position.step

    @property
    def _total(self) -> int:
        return self.work.epochs * self.work.steps_per_epoch
