"""Subnets of a trained run, each recalibrated and validated once, whichever device or budget asks for it."""

from collections.abc import Sequence

from ofa_kit.arch.config import ArchConfig
from ofa_kit.commands.measure_accuracy import add_row, open_evaluator, require_data
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.predictors.accuracy import MINIMUM, AccuracyPredictor
from ofa_kit.predictors.accuracy_table import AccuracyRow, AccuracyTable
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.run import Run


class TrainedSubnets:
    """The subnets of one run: predicted top-1 of any, measured top-1 and the network itself of those asked for."""

    def __init__(self, run: Run) -> None:
        require_data(run)
        self.run = run
        self.supernet, self.weights_hash = run.load_supernet()
        self.table = AccuracyTable.open(run.accuracy, self.weights_hash)
        self.predictor = self._fitted(list(self.table.measured.values()))
        self.evaluator: Evaluator = open_evaluator(run)
        self._networks: dict[str, Subnet] = {}
        prepare_torch()

    def network(self, arch: ArchConfig) -> Subnet:
        """Return the subnet with recalibrated batch norm."""
        if arch.key not in self._networks:
            self._networks[arch.key] = self.evaluator.recalibrated(self.supernet, arch)
        return self._networks[arch.key]

    def top1(self, arch: ArchConfig) -> float:
        """Return measured validation top-1 in percent; what was not measured yet becomes a row of the table."""
        if arch.key not in self.table.rows:
            add_row(self.table, arch, self.evaluator.validation_top1(self.network(arch)), self.evaluator)
        return self.table.rows[arch.key][1]

    def best_measured(self) -> Sequence[ArchConfig]:
        """Return the measured subnets, those of the highest top-1 first."""
        return [arch for arch, _ in sorted(self.table.rows.values(), key=lambda row: -row[1])]

    def predicted_unseen(self, arch: ArchConfig) -> float:
        """Return the top-1 in percent that a predictor says which has not seen the measurement of `arch`."""
        rows = list(self.table.measured.values())
        others = [row for row in rows if row.arch != arch]
        predictor = self._fitted(others if len(others) >= MINIMUM else rows)
        return float(predictor.predict_top1(self.run.space.encode(arch)[None])[0])

    def _fitted(self, rows: Sequence[AccuracyRow]) -> AccuracyPredictor:
        return AccuracyPredictor.fit(
            self.run.space,
            [(row.arch, row.top1) for row in rows],
            standard_errors=[row.standard_error for row in rows],
        )
