"""From graphs to rows: blocks in merged graphs under the profiler, then whole subnets beside the reference network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...protocol import (
    EXTRA_SESSIONS,
    REFERENCE,
    Measurement,
    Runnable,
    TimingProtocol,
    load_average,
    measure,
    steady,
)
from .kit import Kit, RunnerError
from .results import Results
from .sessions import Runtime, block_times_ms

PROGRESS_EVERY_S = 5.0


def measure_kit(
    kit: Kit, results: Results, runtime: Runtime, protocol: TimingProtocol, say: Callable[[str], None]
) -> None:
    """Measure what the results still lack; a kill loses the rows of one graph of blocks or of one chunk of subnets."""
    for session in range(protocol.sessions + EXTRA_SESSIONS):
        _measure_blocks(kit, results, runtime, session, say)
        missing = [graph for graph in kit.graphs("subnet") if results.lacks_subnet(graph["key"], session)]
        order = np.random.default_rng(session).permutation(len(missing))  # other neighbours in each session
        progress = _Progress(say, f"subnets, session {session + 1}", len(missing))
        chunk = kit.manifest["plan"]["chunk"]
        for start in range(0, len(missing), chunk):
            graphs = [missing[place] for place in order[start : start + chunk]]
            _measure_chunk(kit, results, runtime, graphs, protocol, progress.rounds_of(start, len(graphs)))


def now() -> str:
    """Return the time in UTC, such as 2026-11-24T16:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _measure_blocks(kit: Kit, results: Results, runtime: Runtime, session: int, say: Callable[[str], None]) -> None:
    """Time the blocks that lack this session: they stand between the sessions of subnets, so apart in time."""
    plan = kit.manifest["plan"]
    todo = [
        graph
        for graph in kit.graphs("blocks")
        if any(results.lacks_block(key, session) for key in graph["keys"].values())
        and not results.blocks_settled(graph["keys"].values())
    ]
    progress = _Progress(say, f"graphs of blocks, session {session + 1}", len(todo))
    for done, graph in enumerate(todo, start=1):
        times = runtime.kernel_times_ms(kit.folder / graph["file"], plan["block_runs"])
        times_ms = block_times_ms(times, graph["keys"])
        results.append(
            _block_row(key, times_ms.get(prefix, 0.0), plan["block_runs"])
            for prefix, key in graph["keys"].items()
            if results.lacks_block(key, session)
        )
        progress.at(done)


def _block_row(key: str, time_ms: float, runs: int) -> dict[str, object]:
    row: dict[str, object] = {"kind": "block", "key": key, "load": f"{load_average():.2f}", "measured_at": now()}
    if time_ms <= 0:
        return {**row, "error": "the profiler saw no time in kernels of this block"}
    return {**row, "latency_ms": time_ms, "runs": runs}


def _measure_chunk(
    kit: Kit,
    results: Results,
    runtime: Runtime,
    graphs: Sequence[Mapping[str, Any]],
    protocol: TimingProtocol,
    on_round: Callable[[int, int], None],
) -> None:
    loaded: dict[str, Runnable] = {}
    refused: dict[str, str] = {}
    for graph in graphs:
        try:
            loaded[graph["key"]] = runtime.load(kit.folder / graph["file"])
        except RunnerError as error:
            refused[graph["key"]] = str(error)
    loaded[REFERENCE] = runtime.load(kit.folder / kit.graphs("reference")[0]["file"])
    found = measure(
        loaded,
        np.random.default_rng(results.sessions),
        protocol,
        on_round=on_round,
        timed=runtime.timed,
    )
    reference_ms = found[REFERENCE].latency_ms
    tolerance = kit.manifest["plan"]["reference_tolerance"]
    found = steady(found, reference_ms, results.reference_ms(reference_ms), tolerance)
    results.append(_subnet_row(graph, found.get(graph["key"]), error=refused.get(graph["key"], "")) for graph in graphs)


def _subnet_row(graph: Mapping[str, Any], found: Measurement | None, *, error: str) -> dict[str, object]:
    row: dict[str, object] = {"kind": "subnet", "key": graph["key"], **graph["arch"]}
    row.update(load=f"{load_average():.2f}", measured_at=now())
    if found is None:
        return {**row, "error": error}
    return {**row, **found.to_row()}


class _Progress:
    """Lines that say how far the work is, one every few seconds and one at the end."""

    def __init__(self, say: Callable[[str], None], title: str, total: int) -> None:
        self._say, self._title, self._total = say, title, total
        self._start_s = self._last_s = time.monotonic()

    def rounds_of(self, start: int, count: int) -> Callable[[int, int], None]:
        """Return what takes the rounds done of `count` items that are timed together, after the first `start`."""
        return lambda done, total: self.at(start + count * done / total)

    def at(self, done: float) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s < PROGRESS_EVERY_S and done < self._total:
            return
        self._last_s = now_s
        left_s = (now_s - self._start_s) / done * (self._total - done)
        self._say(f"{self._title}: {int(done)}/{self._total}, {left_s:.0f} s left")
