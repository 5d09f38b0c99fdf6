"""search spos: the most accurate subnet of a trained run within a budget, each candidate measured (Guo et al. 2020).

Candidates are recalibrated and validated on held-out images, as many as share a pass at once; their rows go to the
run's accuracy.csv, so nothing is measured twice and a killed search goes on where it stood. With a latency budget the
best are timed on the device, and the first that fits wins.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import bit_operations_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.deploy import Deployment
from ofa_kit.commands.deploy_conversion import Conversion
from ofa_kit.commands.deploy_timed import deploy_timed
from ofa_kit.commands.measure_accuracy import measure_accuracy, open_evaluator
from ofa_kit.commands.measure_engine import Measuring
from ofa_kit.commands.profile import TABLES, Profiled, measure_session, models_of, open_profiled, shuffled_chunks
from ofa_kit.commands.specialize import Specializer
from ofa_kit.commands.spos_evolution import SposEvolution, SposSettings
from ofa_kit.commands.spos_log import LOG, SposCandidate, SposLog
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.progress import Reporter, Silent
from ofa_kit.search.active import Measured
from ofa_kit.search.budget import Budget, Objective, Values
from ofa_kit.search.feasible import extremes, require_feasible
from ofa_kit.training.run import Run

GROUPS = 3
"""How often as many of the best as there are parents are timed, until one of them fits."""
BIT_OPERATIONS = "bit operations (G)"
UNITS = {
    "MACs": "M MACs",
    "parameters": "M parameters",
    "weights": "MB of weights",
    "peak memory": "MB peak memory",
    BIT_OPERATIONS: "G bit operations",
}
"""How a limit's numbers read, by its name."""


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
    weights_hash = run.load_supernet()[1]
    rows = AccuracyTable.open(run.accuracy, weights_hash).measured_on(how.images)
    log = SposLog(
        run.folder / LOG,
        objective,
        budget=_said(budget, device, bit_ops_g),
        images=how.images,
        weights_hash=weights_hash,
        settings=settings,
    )
    evolution = SposEvolution(objective=objective, start=start, settings=settings, bred=log.recorded())
    choice = _Logged(evolution, log, reporter)
    if choice.next(rows, 1):  # else the search is over already
        missing = settings.population * settings.generations - len(log.candidates(evolution, rows))
        try:
            measure_accuracy(run, len(rows) + missing, how=how, choice=choice, reporter=reporter)
        except KeyboardInterrupt:
            reporter.say("stopped; what is measured is kept: the same command goes on")
            raise
        rows = AccuracyTable.open(run.accuracy, weights_hash).measured_on(how.images)
        choice.log_generations(rows)
    candidates = log.candidates(evolution, rows)
    if profiled is None or device is None or math.isinf(budget.latency_ms):
        leaders = candidates[: settings.parents]
        return SposFound(leaders[0], leaders, len(candidates), log.path)
    timed: list[SposCandidate] = []
    for _ in range(GROUPS):
        group = candidates[len(timed) : len(timed) + settings.parents]
        timed += _timed(run, device, profiled, group, reporter)
        if fitting := [found for found in timed if _milliseconds(found) <= budget.latency_ms]:
            return SposFound(fitting[0], timed, len(candidates), log.path)
    raise InfeasibleBudgetError(
        f"none of the {len(timed)} best of {len(candidates)} candidates was measured within {budget} on "
        f"{device.name}; the fastest took {min(map(_milliseconds, timed)):.3f} ms (measured); lower the budget "
        "by the predictor's error, or raise it"
    )


def deploy_found(
    run: Run,
    found: SposCandidate,
    target: Path,
    *,
    device: DeviceProfile | None = None,
    budget: str = "",
    dynamic_batch: bool = False,
    conversion: Conversion | None = None,
    tables: Path = TABLES,
    reporter: Reporter | None = None,
) -> Deployment:
    """Export what a search found: with the table of the device that it was searched for, else timed on cpu-ort."""
    if device is not None:
        specializer = Specializer.open(run, device, tables=tables, reporter=reporter)
        return specializer.export(found.arch, target, dynamic_batch=dynamic_batch, conversion=conversion)
    evaluator, (supernet, weights_hash) = open_evaluator(run), run.load_supernet()
    return deploy_timed(
        run,
        evaluator.recalibrated(supernet, found.arch),
        target,
        device=DeviceProfile.load("cpu-ort"),
        evaluator=evaluator,
        weights_hash=weights_hash,
        validation_top1=found.top1,
        budget=budget,
        dynamic_batch=dynamic_batch,
        conversion=conversion,
    )


def _said(budget: Budget, device: DeviceProfile | None, bit_ops_g: float) -> str:
    """Return the limits as the log names them: latency is that of a device."""
    place = f" on {device.name}" if device is not None and math.isfinite(budget.latency_ms) else ""
    return f"{budget}{place}, {bit_ops_g:g} G BitOps"


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
    if math.isfinite(bit_ops_g) and not any(stage.weight_bits for stage in space.stages):
        raise OfaKitError(
            f"--bit-ops-g counts quantised layers, and '{space.name}' has none; leave it out, or train a space with "
            "bits (spos-bits-small-images, spos-bits-resnet50)"
        )

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
        least = [f"{limit.cost_of(smallest).min():.4f} {UNITS[limit.name]}" for limit in objective.limits]
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


def _milliseconds(found: SposCandidate) -> float:
    """Return measured latency; infinite where there is none."""
    return math.inf if found.latency_ms is None else found.latency_ms


class _Logged:
    """The evolution as a choice that writes down each generation when it is measured."""

    def __init__(self, evolution: SposEvolution, log: SposLog, reporter: Reporter) -> None:
        self.evolution, self.log, self.reporter = evolution, log, reporter

    def next(self, measured: Measured, count: int) -> list[ArchConfig]:
        self.log_generations(measured)
        return self.evolution.next(measured, count)

    def log_generations(self, measured: Measured) -> None:
        for said in self.log.append(self.evolution, measured):
            self.reporter.say(said)
