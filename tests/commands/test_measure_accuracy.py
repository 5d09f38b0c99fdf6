"""measure-accuracy: the same rows from any number of processes, kept through kills."""

import math
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from functools import partial

import pytest
from typer.testing import CliRunner

from ofa_kit import storage
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.presets import preset
from ofa_kit.arch.selection import stratified_subnets
from ofa_kit.cli.train import measure_accuracy as command_line
from ofa_kit.commands import measure_engine
from ofa_kit.commands.measure_accuracy import measure_accuracy, open_evaluator
from ofa_kit.commands.measure_engine import Measuring
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import BackendError, OfaKitError
from ofa_kit.predictors.accuracy_table import COLUMNS, FIRST_COLUMNS, AccuracyTable
from ofa_kit.progress import Silent
from ofa_kit.search.active import START, ActiveChoice
from ofa_kit.training.loop import train
from ofa_kit.training.measure_processes import OneProcess, SeveralProcesses
from ofa_kit.training.measure_subnets import SubnetMeter, chunks_of
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.run import Run

SPACE = preset("mbv3-tiny")
RECIPE = {"space": "mbv3-tiny", "data": "digits", "method": "single-path", "epochs": 1, "batch_size": 128}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    digits = open_dataset("digits", photo_size=32)
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run = Run.create(
        folder,
        Recipe.parse(RECIPE | {"calibration_images": 60, "validation_images": 20, "lr": 0.1}, "test"),
        digits.info,
    )
    train(run, digits)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A trained run without any row."""
    shutil.copytree(trained.folder, tmp_path / "run")
    return Run.open(tmp_path / "run")


def rows_of(run):
    """The file's rows, without their time, by architecture."""
    rows = storage.read_rows(run.accuracy, COLUMNS)
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: {k: v for k, v in row.items() if k != "measured_at"} for row in rows}


class KilledError(Exception):
    """Raised where a kill may come."""


class KilledAfter(Silent):
    """Breaks off when at least so many subnets are measured."""

    def __init__(self, subnets):
        self.subnets = subnets

    @contextmanager
    def task(self, title, total):
        def advance(done, note):
            if done >= self.subnets:
                raise KilledError

        yield advance


@pytest.mark.parametrize("choice", ["spread", "active"])
def test_a_broken_off_measurement_ends_as_if_it_had_not_been(trained, run, tmp_path, monkeypatch, choice):
    monkeypatch.setattr(measure_engine, "MOST_IN_A_PASS", 4)
    count = 9 if choice == "spread" else START + 6
    chosen = None if choice == "spread" else ActiveChoice(space=run.space, cost=partial(macs_of, run.space))
    shutil.copytree(trained.folder, tmp_path / "whole")
    whole = Run.open(tmp_path / "whole")
    measure_accuracy(whole, count, choice=chosen)
    for killed_after in (1, count - 7):
        with pytest.raises(KilledError):
            measure_accuracy(run, count, choice=chosen, reporter=KilledAfter(killed_after))
        with run.accuracy.open("a") as file:
            file.write("torn,32,")
    measure_accuracy(run, count, choice=chosen)
    assert rows_of(run) == rows_of(whole)
    before = run.accuracy.read_bytes()
    measure_accuracy(run, count, choice=chosen)
    assert run.accuracy.read_bytes() == before


def test_processes_find_what_one_finds_and_one_that_dies_is_told(trained):
    supernet, _ = trained.load_supernet()
    meter = SubnetMeter.of(supernet, open_evaluator(trained))
    chunks = chunks_of(SPACE, stratified_subnets(SPACE, 8), 3)
    assert len(chunks) > 3
    engine = SeveralProcesses(meter, 2)
    try:
        found = sorted(engine.measure(chunks), key=lambda counted: chunks.index(counted[0]))
        assert found == list(OneProcess(meter).measure(chunks))
        (_, victim), (_, other) = engine.processes.items()
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(OfaKitError, match=r"exit code -9 .* rows measured so far are kept"):
            list(engine.measure(chunks))
        for pipe in engine.processes:  # as when this process is killed
            pipe.close()
        other.join(timeout=60)
        assert other.exitcode == 0
    finally:
        for process in engine.processes.values():
            process.terminate()


def test_as_many_processes_as_asked_measure_and_write_the_same_rows(run, monkeypatch):
    opened = []

    class Pretended(OneProcess):
        def __init__(self, meter, count):
            super().__init__(meter)
            opened.append(count)
            self.width = count

    monkeypatch.setattr(measure_engine, "SeveralProcesses", Pretended)
    measure_accuracy(run, 6)
    assert opened == []  # too little work for a second process
    alone = rows_of(run)
    run.accuracy.unlink()
    measure_accuracy(run, 6, how=Measuring(processes=3))
    assert opened == [3]
    assert rows_of(run) == alone


def test_all_images_are_all_and_some_have_their_standard_error(run):
    measure_accuracy(run, 3, how=Measuring(images=50))
    for row in rows_of(run).values():
        share = float(row["top1"]) / 100
        assert row["images"] == "50"
        assert float(row["standard_error"]) == pytest.approx(100 * math.sqrt(share * (1 - share) / 50), abs=1e-4)
    table = measure_accuracy(run, 3)  # on all: a better measurement of the same subnets
    total = int(next(iter(rows_with_duplicates(run)))["validation_images"])
    assert len(rows_with_duplicates(run)) == 6
    assert {row.images for row in table.measured.values()} == {total}
    found = table.rows
    run.accuracy.unlink()
    assert measure_accuracy(run, 3, how=Measuring(images=10 * total)).rows == found
    assert measure_accuracy(run, 3, how=Measuring(images=total)).rows == found
    assert measure_accuracy(run, 3, how=Measuring(images=40)).rows == found
    assert len(rows_of(run)) == 3


def rows_with_duplicates(run):
    return storage.read_rows(run.accuracy, COLUMNS)


def test_a_table_of_the_first_version_is_read_and_keeps_its_rows(run, rng):
    archs = stratified_subnets(SPACE, 4)
    weights = run.load_supernet()[1]
    old = [
        {"key": arch.key, **arch.to_row(), "top1": f"{40 + i}.1250", "images": "143", "calibration_images": "60"}
        | {"weights_hash": owner, "measured_at": "2025-01-01T00:00:00Z"}
        for i, (arch, owner) in enumerate(zip(archs, [weights, weights, "others", weights], strict=True))
    ]
    storage.append_rows(run.accuracy, FIRST_COLUMNS, old)
    before = run.accuracy.read_bytes()
    table = AccuracyTable.open(run.accuracy, weights)
    assert [(row.top1, row.images) for row in table.measured.values()] == [(40.125, 143), (41.125, 143), (43.125, 143)]
    assert run.accuracy.read_bytes() == before
    measure_accuracy(run, 4)
    found = rows_with_duplicates(run)
    assert [{column: row[column] for column in FIRST_COLUMNS} for row in found[:4]] == old
    assert {row["measured_by"] for row in found} == {"pytorch"}
    assert (found[4]["key"], len(found)) == (archs[2].key, 5)


def test_rows_say_what_measured_them_and_another_runtime_repeats_none(run):
    measure_accuracy(run, 3, how=Measuring(runtime="onnxruntime"))
    measure_accuracy(run, 5)
    assert [row["measured_by"] for row in rows_of(run).values()] == ["onnxruntime"] * 3 + ["pytorch"] * 2


def test_ray_that_is_missing_is_one_line_before_anything_is_read(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(BackendError, match=r"needs the package ray; run `pip install 'ofa-kit\[ray\]'`") as refused:
        measure_accuracy(run, 4, how=Measuring(engine="ray"))
    assert "\n" not in str(refused.value)
    assert not run.accuracy.exists()
    with pytest.raises(OfaKitError, match="--processes is for --engine local"):
        Measuring(engine="ray", processes=2)


def test_a_ray_cluster_finds_what_one_process_finds(trained):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ofa_kit.training.measure_ray import RayCluster

    supernet, _ = trained.load_supernet()
    meter = SubnetMeter.of(supernet, open_evaluator(trained))
    chunks = chunks_of(SPACE, stratified_subnets(SPACE, 8), 3)
    engine = RayCluster(meter)
    try:
        found = sorted(engine.measure(chunks), key=lambda counted: chunks.index(counted[0]))
        assert found == list(OneProcess(meter).measure(chunks))
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--images", "0"], "--images must be at least 1"),
        (["--processes", "-1"], "--processes must be at least 1"),
        (["--device", "cpu-ort"], "--device is for --choose active"),
        (["--resume"], "nothing to resume"),
        (["--choose", "active", "--device", "cpu-ort", "--tables", "nowhere"], "no latency table"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, list) else "",
)
def test_options_that_cannot_be_are_refused(run, options, says):
    done = call("--run", str(run.folder), *options)
    assert isinstance(done.exception, OfaKitError)
    assert says in str(done.exception)
    assert not run.accuracy.exists()


def test_the_command_line_measures_and_reports(run):
    done = call("--run", str(run.folder), "--subnets", "3", "--images", "40", "--through", "onnxruntime")
    assert done.exit_code == 0, done.output
    assert "3 subnets, top-1" in done.output
    assert "points, measured" in done.output
    assert {row["images"] for row in rows_of(run).values()} == {"40"}


def call(*options):
    import typer

    app = typer.Typer()
    app.command()(command_line)
    return CliRunner().invoke(app, options)
