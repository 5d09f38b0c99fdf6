"""How to time on a machine that is not ours alone.

All models and a fixed reference are loaded in one process and timed in rounds of shuffled order, in two blocks of
time apart. The value of a model is its minimum CPU time, the "floor": on a shared machine it repeats within a few
percent between processes where a median differs by 10-20 %. The wall-clock median ("typical") and p90 stand beside
it. A model has converged when the floors of both blocks agree.

This file is also copied into the kits that boards run: Python 3.8, the standard library and numpy must do for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

REFERENCE = "reference"


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
    """Rounds and tolerances of one timing session."""

    rounds_per_block: int = 25
    blocks: int = 2
    warmup_runs: int = 10
    warmup_s: float = 0.05
    min_burst_s: float = 0.004
    """Short models run several times in a row in each round, so that one round lasts at least this long."""
    pause_s: float = 0.5
    """Time between blocks."""
    tolerance: float = 0.03
    """Floors of the blocks must agree within this share."""


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


def steady(found: Mapping[str, Measurement], reference_ms: float, tolerance: float) -> dict[str, Measurement]:
    """Return the measurements; none has converged where the reference is off `reference_ms` by a larger share."""
    undisturbed = abs(found[REFERENCE].latency_ms / reference_ms - 1) <= tolerance
    return {name: replace(value, converged=value.converged and undisturbed) for name, value in found.items()}


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
    floors = np.array([min(block) for block in floor_times])
    return Measurement(
        latency_ms=float(floors.min() * 1e3),
        p50_ms=float(np.median(wall) * 1e3),
        p90_ms=float(np.quantile(wall, 0.9) * 1e3),
        p99_ms=float(np.quantile(wall, 0.99) * 1e3),
        cv=_spread(np.concatenate([np.asarray(block) for block in floor_times])),
        runs=len(wall),
        converged=bool(floors.max() / floors.min() - 1 <= protocol.tolerance),
    )


def _spread(times: NDArray[np.float64]) -> float:
    fast = np.sort(times)[: max(1, len(times) * 9 // 10)]
    return float(fast.std() / fast.mean())
