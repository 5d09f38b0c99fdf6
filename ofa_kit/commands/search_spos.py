"""search spos: the most accurate subnet of a trained run within a budget, each candidate measured (Guo et al. 2020).

Candidates are recalibrated and validated on held-out images, as many as share a pass at once; their rows go to the
run's accuracy.csv, so nothing is measured twice and a killed search goes on where it stood. With a latency budget the
best are timed on the device, and the first that fits wins.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS, ArchConfig
from ofa_kit.arch.features import bit_operations_of, macs_of, params_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.measure_accuracy import measure_accuracy
from ofa_kit.commands.measure_engine import Measuring
from ofa_kit.commands.profile import TABLES, Profiled, measure_session, models_of, open_profiled, shuffled_chunks
from ofa_kit.commands.spos_evolution import Generation, SposEvolution, SposSettings
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.progress import Reporter, Silent
from ofa_kit.search.active import Measured
from ofa_kit.search.budget import Budget, Objective, Values
from ofa_kit.search.feasible import extremes, require_feasible
from ofa_kit.training.run import Run

LOG = "spos.csv"
SEARCH_COLUMNS = ("seed", "budget", "weights_hash", "population", "generation", "origin", "key", *ARCH_COLUMNS)
LOG_COLUMNS = (*SEARCH_COLUMNS, "top1", "macs_m", "params_m", "bit_ops_g", "latency_ms_predicted")
BIT_OPERATIONS = "bit operations (G)"


@dataclass(frozen=True, kw_only=True)
class SposCandidate:
    """A measured subnet within the budget."""

    arch: ArchConfig
    top1: float
    """Percent of the validation images, measured."""
    macs_m: float
    params_m: float
    bit_ops_g: float
    """Multiply-adds of quantised layers times the bits of both factors, in 10^9; 0 where nothing is quantised."""
    latency_ms_predicted: float | None
    """None without a device."""
    latency_ms: float | None = None
    """Measured on the device; None without a latency budget, infinite where the device cannot run it."""


@dataclass(frozen=True)
class SposFound:
    """What a search found."""

    best: SposCandidate
    leaders: list[SposCandidate]
    """The most accurate ones, best first; with a latency budget also those whose measured time breaks it."""
    measured: int
    """Candidates judged, those measured before included."""
    log: Path


def search_spos(
    run: Run,
    budget: Budget,
    *,
    device: DeviceProfile | None = None,
    bit_ops_g: float = math.inf,
    settings: SposSettings | None = None,
    how: Measuring | None = None,
    tables: Path = TABLES,
    reporter: Reporter | None = None,
) -> SposFound:
    """Search within `budget` (MACs, parameters, latency on `device`) and up to `bit_ops_g` 10^9 bit operations.

    The same call goes on after a kill; an InfeasibleBudgetError comes before anything is measured when no subnet meets
    the budget, or at the end when none of the best was measured within the latency.
    """
    settings, how, reporter = settings or SposSettings(), how or Measuring(), reporter or Silent()
    profiled = _profiled(run, budget, device, tables)
    objective = _objective(run.space, budget, profiled, bit_ops_g)
    start = _feasible(objective, profiled)
    most = settings.population * settings.generations
    weights_hash = run.load_supernet()[1]
    rows = AccuracyTable.open(run.accuracy, weights_hash).measured_on(how.images)
    log = _Log(run.folder / LOG, objective, f"{budget}, {bit_ops_g:g} G BitOps", weights_hash, settings)
    evolution = SposEvolution(objective=objective, start=start, settings=settings, bred=log.recorded())
    choice = _Logged(evolution, log, reporter)
    if choice.next(rows, 1):  # else the search is over already
        measure_accuracy(run, len(rows) + most, how=how, choice=choice, reporter=reporter)
        rows = AccuracyTable.open(run.accuracy, weights_hash).measured_on(how.images)
        choice.log_generations(rows)
    candidates = log.candidates(evolution, rows)
    leaders = candidates[: settings.parents]
    if profiled is None or device is None or math.isinf(budget.latency_ms):
        return SposFound(leaders[0], leaders, len(candidates), log.path)
    leaders = _timed(run, device, profiled, leaders, reporter)
    times_ms = [math.inf if found.latency_ms is None else found.latency_ms for found in leaders]
    fitting = [found for found, ms in zip(leaders, times_ms, strict=True) if ms <= budget.latency_ms]
    if not fitting:
        raise InfeasibleBudgetError(
            f"none of the {len(leaders)} best of {len(candidates)} candidates was measured within {budget} on "
            f"{device.name}; the fastest took {min(times_ms):.3f} ms (measured); lower the budget "
            "by the predictor's error, or raise it"
        )
    return SposFound(fitting[0], leaders, len(candidates), log.path)


def _profiled(run: Run, budget: Budget, device: DeviceProfile | None, tables: Path) -> Profiled | None:
    if device is None:
        if math.isfinite(budget.latency_ms):
            raise OfaKitError(f"a budget of {budget} needs a device that was profiled: give --device")
        return None
    profiled = open_profiled(device, run.space, tables)
    if math.isfinite(budget.latency_ms):
        profiled.table.refuse_elsewhere("candidates")
    return profiled


def _objective(space: SearchSpace, budget: Budget, profiled: Profiled | None, bit_ops_g: float) -> Objective:
    def unknown(genomes: Genomes) -> Values:
        return np.full(len(genomes), np.nan)

    others: Mapping[str, tuple[Callable[[Genomes], Values], float]] = {
        BIT_OPERATIONS: (lambda genomes: bit_operations_of(space, genomes) / 1e9, bit_ops_g)
    }
    latency = profiled.predictor.predict_ms if profiled else unknown
    return Objective(space, budget, unknown, latency, other_costs=others)


def _feasible(objective: Objective, profiled: Profiled | None) -> Genomes:
    """Return genomes within the budget; an InfeasibleBudgetError when there are none."""
    unpriced = replace(objective, predict_top1=lambda genomes: np.zeros(len(genomes)))
    try:
        return require_feasible(unpriced)
    except InfeasibleBudgetError as error:
        if profiled is not None:
            raise
        smallest = extremes(objective)
        least = [f"{limit.cost_of(smallest).min():.4f} {limit.name}" for limit in objective.limits]
        raise InfeasibleBudgetError(
            f"no subnet of '{objective.space.name}' meets {objective.budget}; the smallest has {', '.join(least)}; "
            "raise the budget or train a space with smaller choices"
        ) from error


def _timed(
    run: Run, device: DeviceProfile, profiled: Profiled, leaders: list[SposCandidate], reporter: Reporter
) -> list[SposCandidate]:
    """Return the leaders with their measured times; rows that the table has are not repeated."""
    table, backend = profiled.table, backend_for(device)
    archs = [found.arch for found in leaders]
    with reporter.task("timing", device.protocol.sessions) as advance:
        for session in range(device.protocol.sessions):
            missing = [arch for arch in archs if table.lacks(arch, session)]
            for _, chunk in shuffled_chunks(missing, seed=session):
                measure_session(table, backend, models_of(run.space, chunk, backend))
            advance(session + 1, "")
    times_ms = {key: found.latency_ms for key, (_, found) in table.subnets.items()}
    return [replace(found, latency_ms=times_ms.get(found.arch.key, math.inf)) for found in leaders]


class _Logged:
    """The evolution as a choice that writes down each generation when it is measured."""

    def __init__(self, evolution: SposEvolution, log: "_Log", reporter: Reporter) -> None:
        self.evolution, self.log, self.reporter = evolution, log, reporter

    def next(self, measured: Measured, count: int) -> list[ArchConfig]:
        self.log_generations(measured)
        return self.evolution.next(measured, count)

    def log_generations(self, measured: Measured) -> None:
        for said in self.log.append(self.evolution, measured):
            self.reporter.say(said)


class _Log:
    """spos.csv of a run: each candidate of each search, in the order of the generations; it only grows."""

    def __init__(
        self,
        path: Path,
        objective: Objective,
        budget: str,
        weights_hash: str,
        settings: SposSettings,
    ) -> None:
        self.path, self.objective = path, objective
        self.search = {"seed": str(settings.seed), "budget": budget, "weights_hash": weights_hash}
        self.search["population"] = " ".join(str(value) for key, value in asdict(settings).items() if key != "seed")
        self.written: set[int] = set()

    def recorded(self) -> dict[int, Generation]:
        """Return the generations of this search that the file holds, by number."""
        rows: dict[int, dict[str, dict[str, str]]] = {}
        for row in storage.read_rows(self.path, LOG_COLUMNS):
            if all(row[key] == value for key, value in self.search.items()):
                rows.setdefault(int(row["generation"]), {})[row["key"]] = row
        self.written = set(rows)
        return {
            number: Generation(
                number,
                tuple(ArchConfig.from_row(row) for row in found.values()),
                tuple(row["origin"] for row in found.values()),
            )
            for number, found in rows.items()
        }

    def append(self, evolution: SposEvolution, measured: Measured) -> list[str]:
        """Write the generations that are measured and not in the file; return a line on each."""
        top1_of, said, best = {arch.key: top1 for arch, top1 in measured}, [], -math.inf
        for generation in evolution.generations(measured):
            found = self._candidates(generation.archs, top1_of)
            if len(found) < len(generation.archs):
                break
            best = max(best, *(candidate.top1 for candidate in found))
            if generation.number not in self.written:
                self.written.add(generation.number)
                rows = zip(generation.origins, found, strict=True)
                number = generation.number
                storage.append_rows(self.path, LOG_COLUMNS, [self._row(number, origin, one) for origin, one in rows])
                said.append(f"generation {number + 1}: {len(found)} candidates, best top-1 {best:.2f} % (measured)")
        return said

    def candidates(self, evolution: SposEvolution, measured: Measured) -> list[SposCandidate]:
        """Return all measured candidates of the search, most accurate first."""
        top1_of = {arch.key: top1 for arch, top1 in measured}
        found = [c for one in evolution.generations(measured) for c in self._candidates(one.archs, top1_of)]
        return sorted(found, key=lambda candidate: -candidate.top1)

    def _candidates(self, archs: Sequence[ArchConfig], top1_of: Mapping[str, float]) -> list[SposCandidate]:
        space, predict_ms = self.objective.space, self.objective.predict_latency_ms
        genomes = np.stack([space.encode(arch) for arch in archs])
        costs = [
            macs_of(space, genomes) / 1e6,
            params_of(space, genomes) / 1e6,
            bit_operations_of(space, genomes) / 1e9,
        ]
        found = []
        for arch, macs_m, params_m, bits, ms in zip(archs, *costs, predict_ms(genomes), strict=True):
            if arch.key in top1_of:
                found.append(
                    SposCandidate(
                        arch=arch,
                        top1=top1_of[arch.key],
                        macs_m=float(macs_m),
                        params_m=float(params_m),
                        bit_ops_g=float(bits),
                        latency_ms_predicted=None if math.isnan(ms) else float(ms),
                    )
                )
        return found

    def _row(self, number: int, origin: str, candidate: SposCandidate) -> dict[str, object]:
        arch = candidate.arch
        ms = candidate.latency_ms_predicted
        return {
            **self.search,
            "generation": number,
            "origin": origin,
            "key": arch.key,
            **arch.to_row(),
            "top1": f"{candidate.top1:.4f}",
            "macs_m": f"{candidate.macs_m:.6f}",
            "params_m": f"{candidate.params_m:.6f}",
            "bit_ops_g": f"{candidate.bit_ops_g:.6f}",
            "latency_ms_predicted": "" if ms is None else f"{ms:.5f}",
        }
