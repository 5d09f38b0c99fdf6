"""What a report draws on: opened, fitted and held out when a section first asks, kept for the others.

Where something was not measured yet, the property raises the OfaKitError that says which command brings it.
"""

from functools import cached_property
from pathlib import Path

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.genes import Genomes
from ofa_kit.commands.profile import Profiled, open_profiled
from ofa_kit.commands.report_held_out import HeldOut, Indices, Predict, Values, held_out, learning_curve
from ofa_kit.commands.table import JoinedTable, joined_table
from ofa_kit.errors import TableError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.predictors.accuracy import MINIMUM as FEWEST_TOP1
from ofa_kit.predictors.accuracy import AccuracyPredictor
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.predictors.latency import MINIMUM as FEWEST_TIMES
from ofa_kit.predictors.latency import LatencyPredictor
from ofa_kit.progress import Reporter
from ofa_kit.training.run import Run


class Findings:
    """A run, a device, and what was measured of both."""

    def __init__(self, run: Run, device: DeviceProfile, tables: Path, reporter: Reporter) -> None:
        self.run, self.device, self.tables, self.reporter = run, device, tables, reporter
        self.space = run.space

    @cached_property
    def weights_hash(self) -> str:
        return self.run.load_supernet()[1]

    @cached_property
    def accuracy(self) -> AccuracyTable:
        return AccuracyTable.open(self.run.accuracy, self.weights_hash)

    @property
    def top1(self) -> Values:
        """Measured top-1 in percent, (N,) in the order of the table."""
        return np.array([top1 for _, top1 in self.accuracy.rows.values()])

    @property
    def standard_errors(self) -> Values:
        """Standard errors of `top1` in points, (N,)."""
        return np.array([row.standard_error for row in self.accuracy.measured.values()])

    @cached_property
    def genomes(self) -> Genomes:
        """The measured subnets of the accuracy table, (N, genome_length)."""
        encoded = [self.space.encode(arch) for arch, _ in self.accuracy.rows.values()]
        return np.array(encoded, dtype=np.int64).reshape(-1, self.space.genome_length)

    @cached_property
    def predictor(self) -> AccuracyPredictor:
        return self._fitted(np.arange(len(self.accuracy.rows)))

    @cached_property
    def learning_curve(self) -> list[HeldOut]:
        """Held-out predictions of top-1 by fits to more and more subnets; the last by fits to all but a fifth."""
        return learning_curve(
            lambda rows: self._fitted(rows).predict, self.genomes, self.top1, FEWEST_TOP1, self.reporter
        )

    @cached_property
    def profiled(self) -> Profiled:
        return open_profiled(self.device, self.space, self.tables)

    @property
    def latencies(self) -> dict[str, tuple[ArchConfig, float]]:
        """Measured subnets of the latency table and their milliseconds, by key."""
        subnets = self.profiled.table.subnets
        return {key: (arch, found.latency_ms) for key, (arch, found) in subnets.items()}

    @cached_property
    def latency_held_out(self) -> HeldOut:
        """Held-out predictions of latency by fits to all but a fifth of the subnets."""
        profiled = self.profiled
        if not profiled.predictor.held_out:
            raise TableError(
                f"'{profiled.table.path}' was imported: it has no measured subnets to hold its predictions against"
            )
        measured = list(self.latencies.values())

        def fit(rows: Indices) -> Predict:
            chosen = [measured[row] for row in rows]
            return LatencyPredictor.fit(self.space, profiled.table.blocks, chosen).predict

        genomes = np.stack([self.space.encode(arch) for arch, _ in measured])
        return held_out(fit, genomes, np.array([ms for _, ms in measured]), FEWEST_TIMES)

    @cached_property
    def joined(self) -> JoinedTable:
        return joined_table(self.run, self.device, tables=self.tables)

    def _fitted(self, rows: Indices) -> AccuracyPredictor:
        measured, errors = list(self.accuracy.rows.values()), self.standard_errors
        return AccuracyPredictor.fit(self.space, [measured[row] for row in rows], standard_errors=errors[rows])
