"""Runs whose tables were filled by a law instead of hours of measuring."""

from dataclasses import replace

import numpy as np

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.presets import preset
from ofa_kit.data.sources import open_dataset
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.run import Run

DEVICE = DeviceProfile.load("cpu-ort")
WHEN = "2026-01-01T00:00:00Z"


def new_run(folder):
    """A run whose weights are there and of which nothing was measured."""
    space = preset("mbv3-tiny")
    recipe = Recipe.parse({"space": space.name, "calibration_images": 100}, "test")
    run = Run.create(folder, recipe, open_dataset("digits", photo_size=32).info)
    run.save_supernet(Supernet(run.space).state_dict())
    return run


def measure_top1(run, archs):
    """Rows of a network whose top-1 follows its MACs, with the chance of 500 images in them."""
    table, rng = AccuracyTable.open(run.accuracy, run.load_supernet()[1]), np.random.default_rng(0)
    macs = macs_of(run.space, np.stack([run.space.encode(arch) for arch in archs]))
    for arch, share in zip(archs, 0.5 + 0.1 * np.log(macs / macs.min()), strict=True):
        top1 = 100 * rng.binomial(500, share) / 500
        table.add(arch, top1, images=500, calibration_images=500, measured_at=WHEN)


def measure_latency(run, archs, tables):
    """Rows of a device that takes its time for every multiply-add."""
    table = LatencyTable.create(tables, DEVICE, run.space, {})
    macs = macs_of(run.space, np.stack([run.space.encode(arch) for arch in archs]))
    found = Measurement(latency_ms=1, p50_ms=1, p90_ms=1, p99_ms=1, cv=0.01, runs=9, converged=True)
    for arch, ms in zip(archs, 0.02 + macs / 1e7, strict=True):
        table.add_subnet(arch, replace(found, latency_ms=ms), load=0.0, measured_at=WHEN)
