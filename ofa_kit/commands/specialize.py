"""specialize: the best subnet of a run for a device and a budget: predicted, then measured, then exported.

Search proposes on predictions; the proposals are recalibrated, validated, exported and timed on the device; in the
order of their measured top-1, the first whose measured latency fits wins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.commands.deploy import Deployment, deploy
from ofa_kit.commands.measure_accuracy import add_row, open_evaluator, require_data
from ofa_kit.commands.profile import TABLES, Profiled, measure_session, open_profiled
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.errors import BackendError, InfeasibleBudgetError, UnknownNameError
from ofa_kit.export.onnx_export import export
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.predictors.accuracy import MINIMUM as FEWEST_TOP1
from ofa_kit.predictors.accuracy import AccuracyPredictor
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.predictors.latency import MINIMUM as FEWEST_TIMES
from ofa_kit.predictors.latency import LatencyPredictor
from ofa_kit.progress import Reporter, Silent
from ofa_kit.search.budget import Budget, Objective
from ofa_kit.search.coarse_to_fine import CoarseToFine
from ofa_kit.search.evolution import Evolution
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.run import Run

Algorithm = Literal["evolution", "coarse-to-fine"]
ALGORITHMS: dict[Algorithm, Evolution | CoarseToFine] = {"evolution": Evolution(), "coarse-to-fine": CoarseToFine()}
CANDIDATES = 6
"""Proposals measured in one round, and known good subnets measured beside them."""
KNOWN = 2
ROUNDS = 4


@dataclass(frozen=True)
class Judged:
    """A proposal after it was measured."""

    subnet: Subnet
    top1: float
    latency: Measurement


class Specializer:
    """One run on one device: predictors, evaluator and measurements shared by all budgets."""

    def __init__(
        self, run: Run, device: DeviceProfile, *, tables: Path = TABLES, reporter: Reporter | None = None
    ) -> None:
        require_data(run)
        self.run, self.device, self.reporter = run, device, reporter or Silent()
        self.profiled: Profiled = open_profiled(device, run.space, tables)
        self.profiled.table.refuse_elsewhere("candidates")
        self.backend = backend_for(device)
        self.supernet, self.weights_hash = run.load_supernet()
        self.accuracy = AccuracyTable.open(run.accuracy, self.weights_hash)
        self.predictor = AccuracyPredictor.fit(run.space, list(self.accuracy.rows.values()))
        self.evaluator: Evaluator = open_evaluator(run)
        self.judged: dict[str, Judged] = {}
        prepare_torch()

    def specialize(
        self,
        budget: Budget,
        target: Path,
        *,
        algorithm: Algorithm = "evolution",
        seed: int = 0,
        dynamic_batch: bool = False,
    ) -> Deployment:
        """Find, measure and export the best subnet within `budget`; InfeasibleBudgetError when none fits."""
        rng = np.random.default_rng(seed)
        predicted_budget, fastest = budget, math.inf
        for _ in range(ROUNDS):
            try:
                proposals = self._proposals(predicted_budget, algorithm, rng)
            except InfeasibleBudgetError:
                if fastest < math.inf:
                    break
                raise
            found = self._judge(proposals)
            if not found:
                raise BackendError(
                    f"{self.device.name} runs no proposal: {next(iter(self.profiled.table.failed.values()))}"
                )
            fitting = [judged for judged in found if judged.latency.latency_ms <= budget.latency_ms]
            if fitting:
                best = max(fitting, key=lambda judged: judged.top1)
                return self._deploy(best, budget, target, dynamic_batch)
            fastest = min(fastest, *(judged.latency.latency_ms for judged in found))
            self.reporter.say(
                f"no proposal fits {budget}: the fastest took {fastest:.3f} ms (measured); searching lower"
            )
            tighter = predicted_budget.latency_ms * min(0.97, 0.99 * budget.latency_ms / fastest)
            predicted_budget = replace(budget, latency_ms=tighter)
        raise InfeasibleBudgetError(
            f"no subnet of '{self.run.space.name}' was measured within {budget} on {self.device.name} "
            f"in up to {ROUNDS} rounds; the fastest took {fastest:.3f} ms (measured); raise the budget"
        )

    def _objective(self, budget: Budget) -> Objective:
        latency = self.profiled.predictor
        return Objective(self.run.space, budget, self.predictor.predict_top1, latency.predict_ms)

    def _proposals(self, budget: Budget, algorithm: Algorithm, rng: np.random.Generator) -> list[ArchConfig]:
        """Return the best by prediction and the best whose top-1 is known, all within the predicted budget."""
        objective = self._objective(budget)
        found = ALGORITHMS[algorithm].search(objective, rng, top=CANDIDATES)
        archs = [candidate.arch for candidate in found]
        known = sorted(self.accuracy.rows.values(), key=lambda row: -row[1])
        genomes = np.stack([self.run.space.encode(arch) for arch, _ in known])
        fits = objective.excess(genomes) <= 0
        archs += [arch for (arch, _), ok in zip(known, fits, strict=True) if ok][:KNOWN]
        return list({arch.key: arch for arch in archs}.values())

    def _judge(self, archs: Sequence[ArchConfig]) -> list[Judged]:
        """Recalibrate, validate and time each proposal; every measurement is a row that stays."""
        new = [arch for arch in archs if arch.key not in self.judged]
        with self.reporter.task("candidates", len(new) + 1) as advance:
            subnets: dict[ArchConfig, Subnet] = {}
            for done, arch in enumerate(new, start=1):
                subnets[arch] = self.evaluator.recalibrated(self.supernet, arch)
                if arch.key not in self.accuracy.rows:
                    top1 = self.evaluator.validation_top1(subnets[arch])
                    add_row(self.accuracy, arch, top1, self.evaluator)
                advance(done, f"top-1 {self.accuracy.rows[arch.key][1]:.2f} % (measured)")
            models = {arch: export(s, batch=self.device.batch).SerializeToString() for arch, s in subnets.items()}
            table = self.profiled.table
            for _ in range(self.device.protocol.sessions if models else 0):
                measure_session(table, self.backend, models)
            for arch, subnet in subnets.items():
                if arch.key in table.subnets and arch.key not in table.failed:
                    latency = table.subnets[arch.key][1]
                    self.judged[arch.key] = Judged(subnet, self.accuracy.rows[arch.key][1], latency)
            advance(len(new) + 1, "timed")
        return [self.judged[arch.key] for arch in archs if arch.key in self.judged]

    def _deploy(self, best: Judged, budget: Budget, target: Path, dynamic_batch: bool) -> Deployment:
        predicted = self._predicted_unseen(best.subnet.arch)
        return deploy(
            self.run,
            best.subnet,
            target,
            device=self.device,
            evaluator=self.evaluator,
            weights_hash=self.weights_hash,
            validation_top1=best.top1,
            latency=best.latency,
            predicted=predicted,
            budget=str(budget),
            dynamic_batch=dynamic_batch,
        )

    def _predicted_unseen(self, arch: ArchConfig) -> dict[str, float]:
        """Return what predictors that have not seen the measurements of `arch` say of it."""
        space, table = self.run.space, self.profiled.table
        genome = space.encode(arch)[None]
        tops = [row for key, row in self.accuracy.rows.items() if key != arch.key]
        times = [(a, found.latency_ms) for key, (a, found) in table.subnets.items() if key != arch.key]
        if len(tops) < FEWEST_TOP1 or len(times) < FEWEST_TIMES:  # too small to leave one out
            tops = list(self.accuracy.rows.values())
            times = [(a, found.latency_ms) for a, found in table.subnets.values()]
        return {
            "latency_ms": round(float(LatencyPredictor.fit(space, table.blocks, times).predict_ms(genome)[0]), 4),
            "top1": round(float(AccuracyPredictor.fit(space, tops).predict_top1(genome)[0]), 3),
        }

    def arch_named(self, name: str) -> ArchConfig:
        """Return the subnet that `largest`, `smallest` or a table key names."""
        known = {key: arch for key, (arch, _) in self.profiled.table.subnets.items()}
        known |= {key: arch for key, (arch, _) in self.accuracy.rows.items()}
        named = {"largest": self.run.space.largest(), "smallest": self.run.space.smallest(), **known}
        if name not in named:
            raise UnknownNameError("arch", name, ["largest", "smallest", "the keys that `ofa-kit table` shows"])
        return named[name]

    def export(self, arch: ArchConfig, target: Path, *, dynamic_batch: bool = False) -> Deployment:
        """Measure and export one given subnet, whatever it costs."""
        judged = self._judge([arch])
        if not judged:
            raise BackendError(f"{self.device.name} cannot run it: {self.profiled.table.failed[arch.key]}")
        return self._deploy(judged[0], Budget(), target, dynamic_batch)
