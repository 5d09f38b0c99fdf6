"""The report of a run: held-out predictions, the page, its numbers, and what it says where nothing was measured."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from ofa_kit import storage
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.cli.main import app
from ofa_kit.commands import report_drawing
from ofa_kit.commands.report import report
from ofa_kit.commands.report_held_out import FOLDS, held_out, learning_curve
from ofa_kit.commands.table import joined_table
from ofa_kit.errors import OfaKitError, TableError
from ofa_kit.predictors import scores
from ofa_kit.progress import Silent
from ofa_kit.training.loop import METRICS
from tests.commands.runs import DEVICE, measure_latency, measure_top1, new_run

SUBNETS = 12
NAMES = ["run", "training", "front", "accuracy", "effects", "latency"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run with everything that a report shows."""
    folder = tmp_path_factory.mktemp("report")
    run = new_run(folder / "runs" / "<tiny>")
    archs = spread_subnets(run.space, SUBNETS + 1)
    measure_top1(run, archs[:SUBNETS])
    measure_latency(run, archs, folder / "latency_tables")
    epoch = dict.fromkeys(METRICS, "1") | {"phase": "sandwich", "top1_smallest": ""}
    storage.append_rows(run.metrics, METRICS, [epoch, epoch | {"top1_smallest": "40", "epoch": "2"}])
    return run, folder / "latency_tables"


@pytest.fixture(scope="module")
def made(measured):
    return report(measured[0], DEVICE, tables=measured[1])


def line_fit(x, y, learned):
    """A fit that notes which rows it learned from."""

    def fit(rows):
        learned.append(set(rows.tolist()))
        slope, start = np.polyfit(x[rows], y[rows], 1)
        return lambda genomes: (start + slope * genomes[:, 0], np.full(len(genomes), 0.1))

    return fit


def test_a_held_out_prediction_does_not_know_its_own_measured_value(rng):
    x = np.arange(20)
    y = 0.5 * x + rng.normal(0, 0.1, 20)
    before = learning_curve(line_fit(x, y, []), x[:, None], y, 4, Silent())
    changed = y.copy()
    changed[7] += 100
    after = learning_curve(line_fit(x, changed, []), x[:, None], changed, 4, Silent())
    for one, other in zip(before, after, strict=True):
        assert one.predicted[7] == other.predicted[7]
    assert not np.allclose(before[-1].predicted, after[-1].predicted)  # the others learned from it


def test_a_learning_curve_learns_from_more_and_more_of_the_same_rows():
    x, learned = np.arange(23), []
    curve = learning_curve(line_fit(x, 2.0 * x, learned), x[:, None], 2.0 * x, 4, Silent())
    sizes = [found.size for found in curve]
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (4, 18)
    by_size = np.array(learned).reshape(len(curve), FOLDS)
    for fold in range(FOLDS):
        assert all(small < large for small, large in zip(by_size[:, fold], by_size[1:, fold], strict=False))
    last = held_out(line_fit(x, 2.0 * x, []), x[:, None], 2.0 * x, 4)
    assert np.array_equal(last.predicted, curve[-1].predicted)
    assert last.scored(scores.rmse) == pytest.approx((0, 0), abs=1e-9)
    assert (last.coverage, last.tau_top) == (1.0, pytest.approx(1.0))


def test_too_few_rows_to_hold_any_out_say_how_many_are_needed():
    x = np.arange(9)
    with pytest.raises(TableError, match="at least 10 measured subnets, found 9; run `ofa-kit"):
        held_out(line_fit(x, x, []), x[:, None], x, 8)
    assert held_out(line_fit(x, x, []), x[:, None], x, 7).size == 7


def test_the_page_needs_nothing_from_elsewhere_and_names_nothing_twice(made):
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.extend((tag, *attribute) for attribute in attrs)
            assert tag not in ("script", "link", "img", "iframe")

    Reader().feed(made.html)
    targets = [value for _, name, value in found if name in ("src", "href", "xlink:href")]
    ids = [value for _, name, value in found if name == "id"]
    assert all(target.startswith("#") for target in targets)
    assert {target[1:] for target in targets} <= set(ids)
    assert len(ids) == len(set(ids))
    assert "url(http" not in made.html
    assert "@import" not in made.html
    assert re.findall(r'<section id="(\w+)">', made.html) == NAMES
    assert "Run &lt;tiny&gt;" in made.html


def test_pictures_follow_the_ink_of_the_page(made):
    pictures = re.findall(r"<svg .*?</svg>", made.html, flags=re.DOTALL)
    assert len(pictures) == 7
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert set(re.findall(r"#[0-9a-f]{6}\b", picture)) == set()
        assert "var(--ink)" in picture


def test_numbers_are_those_of_the_tables_and_of_held_out_predictions(measured, made):
    run, tables = measured
    frame = joined_table(run, DEVICE, tables=tables).frame.set_index("key")
    values = json.loads(json.dumps(made.values, allow_nan=False))
    rows = values["accuracy"]["held_out"]
    assert len(rows) == SUBNETS
    for row in rows:
        assert row["top1_measured"] == frame.loc[row["key"], "top1_measured"]
    difference = [row["top1_predicted"] - row["top1_measured"] for row in rows]
    assert values["accuracy"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(difference))))
    assert values["accuracy"]["learning_curve"][-1]["rmse"] == values["accuracy"]["rmse"]
    assert {effect["name"] for effect in values["effects"]["effects"]} >= {"resolution", "depth, stage 1"}
    assert values["latency"]["mape"] < 5  # this device keeps to a law
    fronts = {row["key"]: row["pareto"] for row in values["front"]["rows"]}
    assert fronts == frame["pareto"].to_dict()
    assert made.missing == []


def test_each_section_without_data_says_what_to_run(tmp_path):
    run = new_run(tmp_path / "runs" / "new")
    empty = report(run, DEVICE, tables=tmp_path)
    sections = dict(zip(NAMES, empty.html.split("<section ")[1:], strict=True))
    for name, command in [
        ("front", "ofa-kit profile"),
        ("accuracy", "ofa-kit measure-accuracy"),
        ("effects", "ofa-kit measure-accuracy"),
        ("latency", "ofa-kit profile"),
    ]:
        assert f"<code>{command}" in sections[name]
        assert "<svg" not in sections[name]
    assert "weights from elsewhere" in sections["training"]
    assert run.weights.exists()
    run.weights.unlink()
    untrained = report(run, DEVICE, tables=tmp_path)
    assert any("train-supernet" in line and "--resume" in line for line in untrained.missing)


def test_the_command_writes_the_page_into_the_run_folder_and_prints_its_numbers(tmp_path, monkeypatch):
    run = new_run(tmp_path / "runs" / "few")
    measure_top1(run, spread_subnets(run.space, 8))  # enough to predict, too few to hold any out
    measure_latency(run, spread_subnets(run.space, 4), tmp_path)
    command = ["report", "--run", str(run.folder), "--tables", str(tmp_path)]
    done = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    values = json.loads(done.stdout)
    assert list(values) == ["report", *NAMES]
    assert values["report"] == str(run.folder / "report.html")
    assert "at least 10 measured subnets, found 8" in values["accuracy"]["missing"]
    assert re.search(r"at least 5 measured subnets, found 4; run `ofa-kit profile", values["latency"]["missing"])
    assert values["front"]["cost"] == "latency_ms"
    assert (run.folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    monkeypatch.setattr(report_drawing, "find_spec", lambda name: None)
    with pytest.raises(OfaKitError, match=r"needs the package matplotlib; install `ofa-kit\[report\]`"):
        CliRunner().invoke(app, command, catch_exceptions=False)
