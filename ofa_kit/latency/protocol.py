"""How to time on a machine that is not ours alone.

All models and a fixed reference are loaded in one process and timed in rounds of shuffled order, in two blocks of
time apart. The value of a model is its minimum CPU time, the "floor": on a shared machine it repeats within a few
percent between processes where a median differs by 10-20 %. The wall-clock median ("typical") and p90 stand beside
it. What others do to caches and memory lasts longer than one session, so a model is timed in several, each with other
neighbours and loaded anew, and the least of their floors counts. It has converged when two sessions agree on it.

This file is also copied into the kits that boards run: Python 3.8, the standard library and numpy must do for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

REFERENCE = "reference"
TIMES = ("latency_ms", "p50_ms", "p90_ms", "p99_ms")
EXTRA_SESSIONS = 2
"""Further sessions of a model on whose floor no two have agreed."""
BLOCK_TOLERANCE = 0.015
"""Share within which two sessions of half of the blocks of a graph must agree."""


Model = TypeVar("Model")


class Runnable(Protocol):
    """A loaded model with its input bound: one call is one inference, over when the call returns."""

    def __call__(self) -> None: ...


class Timer(Protocol):
    """Runs a model once and returns seconds: the time that its floor is made of, and wall-clock time."""

    def __call__(self, run: Runnable, /) -> tuple[float, float]: ...


def timer(clock: Callable[[], float]) -> Timer:
    """Return a timer that reads floors from `clock`: time.thread_time, or time.perf_counter for several threads."""

    def timed(run: Runnable) -> tuple[float, float]:
        start_wall, start_clock = time.perf_counter(), clock()
        run()
        return clock() - start_clock, time.perf_counter() - start_wall

    return timed


@dataclass(frozen=True)
class TimingProtocol:
    """Sessions, their rounds, and tolerances."""

    sessions: int = 4
    """Sessions of a subnet, apart in time, and of the blocks between them."""
    rounds_per_block: int = 8
    blocks: int = 2
    warmup_runs: int = 10
    warmup_s: float = 0.05
    min_burst_s: float = 0.004
    """Short models run several times in a row in each round, so that one round lasts at least this long."""
    pause_s: float = 0.3
    """Time between blocks."""
    tolerance: float = 0.03
    """Floors of the blocks of a session, and the two lowest of the sessions, must agree within this share."""


@dataclass(frozen=True)
class Measurement:
    """Times of one model in milliseconds; `latency_ms` is the floor, the quantiles are wall-clock times."""

    latency_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    cv: float
    """Spread of the times that the floor is made of: standard deviation / mean of the faster nine tenths."""
    runs: int
    converged: bool

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Measurement:
        """Return what a row of a table says; a ValueError where it is damaged."""
        if row["converged"] not in ("True", "False"):
            raise ValueError(f"converged '{row['converged']}'")
        times = {name: float(row[name]) for name in TIMES}
        if not 0 < min(times.values()) <= max(times.values()) < float("inf"):
            raise ValueError(f"{', '.join(row[name] for name in TIMES)} ms")
        return cls(**times, cv=float(row["cv"]), runs=int(row["runs"]), converged=row["converged"] == "True")

    def to_row(self) -> dict[str, object]:
        """Return the columns of a table's row."""
        times: dict[str, object] = {name: f"{getattr(self, name):.6f}" for name in TIMES}
        return {**times, "cv": f"{self.cv:.4f}", "runs": self.runs, "converged": self.converged}


def measure(
    models: Mapping[str, Runnable],
    rng: np.random.Generator,
    protocol: TimingProtocol | None = None,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    timed: Timer | None = None,
) -> dict[str, Measurement]:
    """Time all models interleaved and return one Measurement each; `on_round(done, total)` reports progress.

    Floors are CPU time of this thread, unless `timed` says otherwise.
    """
    timed = timed or timer(time.thread_time)
    protocol = protocol or TimingProtocol()
    bursts = {name: _warm_up(run, protocol) for name, run in models.items()}
    names = list(models)
    floors: dict[str, list[list[float]]] = {name: [[] for _ in range(protocol.blocks)] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    for block in range(protocol.blocks):
        if block:
            time.sleep(protocol.pause_s)
        for round_number in range(protocol.rounds_per_block):
            for index in rng.permutation(len(names)):
                name = names[index]
                run = models[name]
                run()  # caches hold the other models' data: one run brings this one's back
                for _ in range(bursts[name]):
                    floor_s, wall_s = timed(run)
                    floors[name][block].append(floor_s)
                    wall[name].append(wall_s)
            on_round(block * protocol.rounds_per_block + round_number + 1, protocol.blocks * protocol.rounds_per_block)
    return {name: _summary(floors[name], wall[name], protocol) for name in names}


def of_sessions(sessions: Sequence[Measurement], tolerance: float) -> Measurement:
    """Return what all sessions of one model say: the least floor, the median of the medians, the worst p99.

    It has converged when at least two undisturbed sessions (or the only one) agree on the least floor.
    """
    best = min(sessions, key=lambda found: found.latency_ms)
    near = [found for found in sessions if found.converged and found.latency_ms <= (1 + tolerance) * best.latency_ms]
    return replace(
        best,
        p50_ms=float(np.median([found.p50_ms for found in sessions])),
        p90_ms=float(np.median([found.p90_ms for found in sessions])),
        p99_ms=max(found.p99_ms for found in sessions),
        runs=sum(found.runs for found in sessions),
        converged=len(near) >= min(2, len(sessions)),
    )


def settled(sessions: Sequence[Measurement], protocol: TimingProtocol) -> bool:
    """Return whether a model needs no further session: enough have agreed, or further ones would not help."""
    if len(sessions) >= protocol.sessions + EXTRA_SESSIONS:
        return True
    return len(sessions) >= protocol.sessions and of_sessions(sessions, protocol.tolerance).converged


def blocks_settled(blocks: Iterable[Sequence[float]], protocol: TimingProtocol) -> bool:
    """Return whether the blocks of one graph, each with its times in all sessions, need no further session.

    They have as many as subnets where not two of them agree earlier.
    """
    ordered = [sorted(times) for times in blocks]
    done = min(map(len, ordered), default=0)
    if done < 2 or done >= protocol.sessions:
        return 0 < protocol.sessions <= done
    return float(np.median([times[1] / times[0] - 1 for times in ordered])) <= BLOCK_TOLERANCE


def steady(
    found: Mapping[Model, Measurement], reference_ms: float, usual_ms: float, tolerance: float
) -> dict[Model, Measurement]:
    """Return a session's measurements; none has converged where the reference is further off its usual time."""
    undisturbed = abs(reference_ms / usual_ms - 1) <= tolerance
    return {model: replace(value, converged=value.converged and undisturbed) for model, value in found.items()}


def load_average() -> float:
    """Return the number of runnable processes over the last minute."""
    return os.getloadavg()[0]


def _warm_up(run: Runnable, protocol: TimingProtocol) -> int:
    """Warm one model up and return how many runs make a burst."""
    start_s = time.perf_counter()
    runs, fastest = 0, float("inf")
    while runs < protocol.warmup_runs or time.perf_counter() - start_s < protocol.warmup_s:
        run_start_s = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - run_start_s)
        runs += 1
    return int(np.clip(protocol.min_burst_s / max(fastest, 1e-6), 1, 50))


def _summary(floor_times: list[list[float]], wall: list[float], protocol: TimingProtocol) -> Measurement:
    floors = np.array([_floor(np.asarray(block)) for block in floor_times])
    return Measurement(
        latency_ms=float(floors.min() * 1e3),
        p50_ms=float(np.median(wall) * 1e3),
        p90_ms=float(np.quantile(wall, 0.9) * 1e3),
        p99_ms=float(np.quantile(wall, 0.99) * 1e3),
        cv=_spread(np.concatenate([np.asarray(block) for block in floor_times])),
        runs=len(wall),
        converged=bool(floors.max() / floors.min() - 1 <= protocol.tolerance),
    )


def _floor(times: NDArray[np.float64]) -> float:
    """Return the least time that can be true: on virtual machines the clock of CPU time stands still now and then."""
    return float(times[times >= np.median(times) / 4].min())


def _spread(times: NDArray[np.float64]) -> float:
    fast = np.sort(times)[: max(1, len(times) * 9 // 10)]
    return float(fast.std() / fast.mean())
