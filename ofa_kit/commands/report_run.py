"""Sections of a report on the run itself: what it is, and how its training went."""

import platform
from importlib.metadata import version

import numpy as np

from ofa_kit import storage
from ofa_kit.arch.features import macs_of
from ofa_kit.commands.report_charts import training_chart
from ofa_kit.commands.report_findings import Findings
from ofa_kit.commands.report_page import Section, facts, figure
from ofa_kit.errors import OfaKitError, RunError
from ofa_kit.training.loop import METRICS

PACKAGES = ("ofa-kit", "torch", "numpy", "scikit-learn")


def run_section(found: Findings) -> Section:
    """Say what the run is: space, recipe, data, weights, what was measured, versions."""
    run, space, info = found.run, found.space, found.run.info
    recipe = run.recipe
    ends = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    low, high = macs_of(space, ends) / 1e6
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    rows = {
        "space": f"{space.name}: {space.size():.3g} subnets, {min(space.resolutions)}..{max(space.resolutions)} px, "
        f"{low:.3g}..{high:.3g} M MACs; fingerprint {space.fingerprint}",
        "recipe": f"{recipe.method}, {recipe.epochs} epochs of batch {recipe.batch_size}, {recipe.optimizer}, "
        f"lr {recipe.lr:g}, seed {recipe.seed}; all settings: {run.folder / 'config.yaml'}",
        "data": f"{info.data}: {info.num_classes} classes; content {info.content or 'not known'}",
        "weights": _weights(found),
        "top-1": _measured_top1(found),
        "latency": _measured_latency(found),
        "this report": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    return Section("run", "The run", [facts(list(rows.items()))], rows | {"versions": versions})


def training_section(found: Findings) -> Section:
    """Draw the training curve."""
    epochs = storage.read_rows(found.run.metrics, METRICS)
    if not epochs:
        raise RunError(
            f"run '{found.run.name}' has its weights from elsewhere, so there is no training to show"
            if found.run.weights.exists()
            else f"no epoch is finished; go on with `ofa-kit train-supernet --run {found.run.folder} --resume`"
        )
    minutes = float(epochs[-1]["elapsed_s"]) / 60
    count = found.run.recipe.validation_images
    caption = (
        f"{len(epochs)} epochs in {minutes:.0f} minutes. Top-1 of the two ends of the space on "
        f"{f'up to {count:,}' if count else 'all'} held-out images, batch norm recalibrated (measured)."
    )
    values = [{"phase": row["phase"]} | {name: _number(row[name]) for name in METRICS[1:]} for row in epochs]
    return Section("training", "Training", [figure(training_chart(epochs), caption)], {"epochs": values})


def _number(text: str) -> float | None:
    return float(text) if text else None


def _weights(found: Findings) -> str:
    try:
        return f"hash {found.weights_hash}"
    except OfaKitError as error:
        return str(error)


def _measured_top1(found: Findings) -> str:
    try:
        return f"{len(found.accuracy.rows)} subnets measured on held-out images: {found.run.accuracy}"
    except OfaKitError:
        return "nothing measured"


def _measured_latency(found: Findings) -> str:
    try:
        table = found.profiled.table
    except OfaKitError as error:
        return str(error)
    device, machine = found.device, table.provenance.get("machine", {})
    versions = ", ".join(f"{name} {number}" for name, number in table.provenance.get("versions", {}).items())
    return (
        f"{len(table.subnets)} subnets measured on {device.name} ({device.backend} {device.precision}, batch "
        f"{device.batch}, threads {device.threads}; {machine.get('processor', 'machine not known')}; {versions}): "
        f"{table.path}"
    )
