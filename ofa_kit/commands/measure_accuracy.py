"""measure-accuracy: top-1 of chosen subnets of a trained supernet, one durable row each."""

from datetime import UTC, datetime

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.run import Run

NO_DATA = "none"
"""The data of a run that was imported without any."""


def measure_accuracy(run: Run, subnets: int, *, reporter: Reporter | None = None) -> AccuracyTable:
    """Measure `subnets` spread over the space on the held-out validation images; measured ones are not repeated."""
    reporter = reporter or Silent()
    if subnets < 1:
        raise OfaKitError(f"--subnets must be at least 1, found {subnets}")
    require_data(run)
    supernet, weights_hash = run.load_supernet()
    table = AccuracyTable.open(run.accuracy, weights_hash)
    missing = [arch for arch in spread_subnets(run.space, subnets) if arch.key not in table.rows]
    if not missing:
        return table
    prepare_torch()
    evaluator = open_evaluator(run)
    with reporter.task("accuracy", len(missing)) as advance:
        for done, arch in enumerate(missing, start=1):
            top1 = evaluator.top1(supernet, arch)
            add_row(table, arch, top1, evaluator)
            advance(done, f"top-1 {top1:.2f} % (measured)")
    return table


def require_data(run: Run) -> None:
    """Raise an OfaKitError when the run was imported without data."""
    if run.info.data == NO_DATA:
        raise OfaKitError(
            f"run '{run.name}' was imported without data, so nothing can be measured for accuracy; import it again "
            "with --data (imagefolder:PATH for ImageNet), or `ofa-kit profile --no-accuracy` for latency alone"
        )


def open_evaluator(run: Run) -> Evaluator:
    """Return an evaluator on the run's data."""
    require_data(run)
    dataset = open_dataset(run.info.data, photo_size=max(run.space.resolutions))
    if dataset.info != run.info:
        raise OfaKitError(
            f"the data '{run.info.data}' are not what run '{run.name}' was trained on (classes or number of images "
            "changed): held-out images would no longer be held out; bring the data back or train again"
        )
    return Evaluator(dataset, calibration=run.recipe.calibration_images)


def add_row(table: AccuracyTable, arch: ArchConfig, top1: float, evaluator: Evaluator) -> None:
    """Append a measured top-1."""
    table.add(
        arch,
        top1,
        images=evaluator.validation_count,
        calibration_images=evaluator.calibration,
        measured_at=now(),
    )


def now() -> str:
    """Return the time as rows write it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
