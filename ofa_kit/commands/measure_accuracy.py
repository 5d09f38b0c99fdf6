"""measure-accuracy: top-1 of chosen subnets of a trained supernet, durable rows from one process or many."""

from datetime import UTC, datetime

from ofa_kit.arch.config import ArchConfig
from ofa_kit.commands.measure_engine import Measuring, open_engine, subnets_in_a_pass
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.progress import Reporter, Silent
from ofa_kit.search.active import Choice, SpreadChoice
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.measure_ray import load_ray
from ofa_kit.training.measure_subnets import RuntimeName, SubnetMeter, chunks_of
from ofa_kit.training.run import Run

NO_DATA = "none"
"""The data of a run that was imported without any."""


def measure_accuracy(
    run: Run,
    subnets: int,
    *,
    how: Measuring | None = None,
    choice: Choice | None = None,
    reporter: Reporter | None = None,
) -> AccuracyTable:
    """Measure until `subnets` have rows on the held-out validation images; measured ones are not repeated."""
    how, reporter = how or Measuring(), reporter or Silent()
    if subnets < 1:
        raise OfaKitError(f"--subnets must be at least 1, found {subnets}")
    require_data(run)
    if how.engine == "ray":
        load_ray()
    supernet, weights_hash = run.load_supernet()
    table = AccuracyTable.open(run.accuracy, weights_hash)
    missing = subnets - len(table.measured_on(how.images))
    if missing <= 0:
        return table
    prepare_torch()
    evaluator = open_evaluator(run, images=how.images)
    meter = SubnetMeter.of(supernet, evaluator, how.runtime)
    with reporter.task("accuracy", missing) as advance, open_engine(how, meter, missing) as engine:
        done = 0
        while done < missing:
            chosen = (choice or SpreadChoice(run.space)).next(table.measured_on(how.images), missing - done)
            if not chosen:
                reporter.say(f"no more subnets of '{run.space.name}' are found to measure")
                break
            size = subnets_in_a_pass(meter, len(chosen), engine.width)
            for chunk, counts in engine.measure(chunks_of(run.space, chosen, size)):
                for arch, correct in zip(chunk, counts, strict=True):
                    top1 = 100 * correct / evaluator.validation_count
                    add_row(table, arch, top1, evaluator, measured_by=how.runtime)
                done += len(chunk)
                advance(done, f"top-1 {top1:.2f} % (measured)")
    return table


def require_data(run: Run) -> None:
    """Raise an OfaKitError when the run was imported without data."""
    if run.info.data == NO_DATA:
        raise OfaKitError(
            f"run '{run.name}' was imported without data, so nothing can be measured for accuracy; import it again "
            "with --data (imagefolder:PATH for ImageNet), or `ofa-kit profile --no-accuracy` for latency alone"
        )


def open_evaluator(run: Run, *, images: int = 0) -> Evaluator:
    """Return an evaluator on the run's data and so many validation images (0 = all)."""
    require_data(run)
    dataset = open_dataset(run.info.data, photo_size=max(run.space.resolutions))
    if dataset.info != run.info:
        raise OfaKitError(
            f"the data '{run.info.data}' are not what run '{run.name}' was trained on (classes or number of images "
            "changed): held-out images would no longer be held out; bring the data back or train again"
        )
    return Evaluator(dataset, calibration=run.recipe.calibration_images, validation=images)


def add_row(
    table: AccuracyTable, arch: ArchConfig, top1: float, evaluator: Evaluator, *, measured_by: RuntimeName = "pytorch"
) -> None:
    """Append a measured top-1."""
    table.add(
        arch,
        top1,
        images=evaluator.validation_count,
        validation_images=len(evaluator.dataset.validation.labels),
        calibration_images=evaluator.calibration,
        measured_at=now(),
        measured_by=measured_by,
    )


def now() -> str:
    """Return the time as rows write it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
