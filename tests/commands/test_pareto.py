"""The front of a run on a device: what is on it, what is compared with it, what measuring adds, and misuse."""

import csv
import json
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ofa_kit.arch.selection import spread_subnets
from ofa_kit.cli.main import app, main
from ofa_kit.commands import pareto_measure
from ofa_kit.commands.pareto import pareto
from ofa_kit.commands.pareto_measure import measure_front, spread
from ofa_kit.commands.pareto_points import BEFORE, DIGITS, FITTED, HELD_OUT, repeats_within_ms
from ofa_kit.commands.pareto_summary import instead_of_macs, instead_of_random
from ofa_kit.commands.pareto_text import terminal
from ofa_kit.commands.report_findings import Findings
from ofa_kit.errors import TableError
from ofa_kit.latency.protocol import EXTRA_SESSIONS, Measurement, TimingProtocol
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.progress import Silent
from ofa_kit.search.pareto import Pareto
from tests.commands.runs import DEVICE, WHEN, measure_latency, measure_top1, new_run

SUBNETS, POINTS, MEASURED = 12, 6, 3
SMALL = Pareto(samples=60, population=20, generations=3, shares=6)
QUICK = TimingProtocol(sessions=2, rounds_per_block=8, pause_s=0.0, warmup_runs=2, warmup_s=0.0)
QUICK_DEVICE = replace(DEVICE, protocol=QUICK)


def filled(folder):
    """A run of which both tables are filled: some subnets have both values, one only a latency."""
    run = new_run(folder / "runs" / "<tiny>")
    archs = spread_subnets(run.space, SUBNETS + 1)
    measure_top1(run, archs[:SUBNETS])
    measure_latency(run, archs, folder / "latency_tables")
    return run, folder / "latency_tables"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("pareto"))


@pytest.fixture(scope="module")
def made(place):
    return pareto(place[0], DEVICE, points=POINTS, search=SMALL, tables=place[1])


def beaten(frame, top1="top1_predicted", cost="latency_ms_predicted"):
    """Which rows another one is at least as good as in both, and better in one."""
    a, c = (frame[name].to_numpy() for name in (top1, cost))
    no_worse = (a[:, None] >= a) & (c[:, None] <= c)
    return (no_worse & ((a[:, None] > a) | (c[:, None] < c))).any(axis=0)


def test_no_subnet_that_was_looked_at_beats_one_of_the_predicted_front(made):
    front, by_macs = (made.frame[made.frame["role"] == role] for role in ("front", "macs_front"))
    assert not beaten(made.whole).any()
    assert not beaten(pd.concat([made.whole, by_macs]))[: len(made.whole)].any()
    assert not beaten(by_macs, cost="macs_m").any()
    assert set(front["key"]) <= set(made.whole["key"])
    assert len(made.whole) > len(front) == POINTS
    assert front["key"].iloc[[0, -1]].tolist() == made.whole["key"].iloc[[0, -1]].tolist()
    assert made.summary["front_subnets"] == len(made.whole)


def test_measured_values_are_those_of_the_tables_and_each_subnet_has_one_measured_role(place, made):
    run, tables = place
    top1 = AccuracyTable.open(run.accuracy, run.load_supernet()[1]).measured
    table = LatencyTable.open(tables, DEVICE, run.space)
    for row in made.rows:
        key = row["key"]
        assert (row["top1_measured"] is not None) == (key in top1)
        assert (row["latency_ms_measured"] is not None) == (key in table.subnets)
        if key in top1:
            assert row["top1_measured"] == pytest.approx(top1[key].top1, rel=10**-DIGITS)
            assert row["top1_measured_standard_error"] == pytest.approx(top1[key].standard_error, rel=1e-5)
        if key in table.subnets:
            assert row["latency_ms_measured"] == pytest.approx(table.subnets[key][1].latency_ms, rel=1e-5)
            assert row["latency_ms_measured_error"] > 0
    roles = made.frame[made.frame["role"].isin(["smallest", "largest", "random"])]
    assert sorted(roles["key"]) == sorted(top1.keys() & table.subnets.keys())
    assert set(roles["predicted_by"]) == {HELD_OUT}
    assert set(made.frame.loc[made.frame["role"] == "front", "predicted_by"]) == {FITTED}
    assert made.summary["only_latency"] == 1
    assert made.summary["measured_subnets"]["random"] == SUBNETS - 2


def test_files_say_what_json_says_and_need_nothing_from_elsewhere(place, made, tmp_path, monkeypatch):
    monkeypatch.setattr("ofa_kit.commands.pareto.Pareto", lambda: SMALL)
    run, tables = place
    command = ["pareto", "--run", str(run.folder), "--tables", str(tables), "--points", str(POINTS)]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path), "--json"], catch_exceptions=False)
    said = json.loads(done.stdout)
    assert said["rows"] == made.rows  # the same seed, the same front
    assert said["summary"] == json.loads(json.dumps(made.summary))
    with (tmp_path / "pareto-cpu-ort.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(said["rows"])
    for row, other in zip(rows, said["rows"], strict=True):
        assert list(row) == list(other)
        for name, value in other.items():
            assert row[name] == ("" if value is None else str(value)) or float(row[name]) == value
    numbers = [name for name in rows[0] if name.startswith(("top1", "latency"))]
    assert all("predicted" in name or "measured" in name for name in numbers)

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "img", "iframe")
            assert all(value.startswith("#") for name, value in attrs if name in ("src", "href", "xlink:href"))

    page = (tmp_path / "pareto-cpu-ort.html").read_text(encoding="utf-8")
    Reader().feed(page)
    assert "Pareto front of run &lt;tiny&gt; on cpu-ort" in page
    assert "url(http" not in page
    picture = matplotlib.image.imread(tmp_path / "pareto-cpu-ort.png")
    assert picture[0, 0] == pytest.approx(1, abs=0.01)  # white paper, not transparent
    assert not (run.folder / "pareto-cpu-ort.csv").exists()


def test_a_terminal_shows_the_front_and_says_what_is_predicted_and_what_measured(place, made):
    head, names, *lines = terminal(place[0], DEVICE, made.frame, made.summary)
    assert head == f"front of run <tiny> on cpu-ort: {POINTS} of {len(made.whole)} subnets (predicted)"
    for name in ("top-1, % (predicted)", "top-1, % (measured)", "ms (predicted)", "ms (measured)"):
        assert name in names
    first = made.frame.iloc[0]
    assert f"{first['top1_predicted']:.2f} ± {first['top1_predicted_error']:.2f}" in lines[0]
    assert lines[0].split()[:2] == [first["key"], "front"]
    assert any("--measure K" in line for line in lines)


def test_measuring_on_the_front_goes_on_where_it_was_broken_off_and_repeats_nothing(tmp_path, monkeypatch):
    run, tables = filled(tmp_path)
    facts = LatencyTable.open(tables, DEVICE, run.space).path.with_suffix(".json")
    described = json.loads(facts.read_text())
    described["device"]["protocol"] = asdict(QUICK)
    facts.write_text(json.dumps(described))
    before = LatencyTable.open(tables, QUICK_DEVICE, run.space).subnets.keys()

    def ask():
        return pareto(run, QUICK_DEVICE, points=POINTS, measure=MEASURED, search=SMALL, tables=tables)

    done, session = [], pareto_measure.measure_session

    def first_alone(*given):
        if done:
            raise KeyboardInterrupt
        done.append(session(*given))

    with monkeypatch.context() as patched:
        patched.setattr(pareto_measure, "measure_session", first_alone)
        with pytest.raises(KeyboardInterrupt):
            ask()
    broken = pd.read_csv(run.folder / "pareto-cpu-ort-chosen.csv")
    made = ask()
    chosen = made.frame[made.frame["role"] == "chosen"]
    assert set(chosen["key"]) == set(broken["key"])
    assert not set(chosen["key"]) & set(before)
    assert chosen[["top1_measured", "latency_ms_measured"]].notna().all(axis=None)
    assert set(chosen["predicted_by"]) == {BEFORE}
    told = chosen.set_index("key")["top1_predicted"].to_dict()
    assert told == broken.set_index("key")["top1_predicted"].to_dict()  # not what is predicted now
    assert made.summary["chosen"]["subnets"] == MEASURED
    assert made.summary["not_measured"] == 0
    accuracy = pd.read_csv(run.accuracy)
    assert accuracy["key"].is_unique
    table = LatencyTable.open(tables, QUICK_DEVICE, run.space)
    for key in chosen["key"]:
        assert QUICK.sessions <= len(table.sessions[key]) <= QUICK.sessions + EXTRA_SESSIONS
    files = [run.accuracy, table.path, run.folder / "pareto-cpu-ort-chosen.csv"]
    contents = [path.read_bytes() for path in files]
    for count in (1, MEASURED):  # more are there than are asked for
        measure_front(Findings(run, QUICK_DEVICE, tables, Silent()), count, SMALL, 0)
    assert [path.read_bytes() for path in files] == contents
    more = measure_front(Findings(run, QUICK_DEVICE, tables, Silent()), MEASURED + 1, SMALL, 0)
    assert len(more.archs) == MEASURED + 1
    assert set(chosen["key"]) < more.archs.keys()


def test_points_are_spread_and_stay_when_more_are_asked_for():
    places = np.array([0.0, 0.1, 0.2, 0.45, 0.55, 0.9, 1.0])
    assert spread(places, 1, np.array([])) == [3]
    assert spread(places, 2, np.array([0.0, 1.0]))[0] in (3, 4)
    for taken in (np.array([]), np.array([0.0, 1.0])):
        few, more = spread(places, 3, taken), spread(places, 9, taken)
        assert more[:3] == few
        assert sorted(more) == list(range(len(places)))


def test_a_latency_repeats_within_its_two_lowest_sessions_but_no_better_than_tables_do():
    one = Measurement(latency_ms=2.0, p50_ms=3, p90_ms=3, p99_ms=3, cv=0.01, runs=9, converged=True)
    assert repeats_within_ms([one]) == pytest.approx(0.03)
    assert repeats_within_ms([replace(one, latency_ms=2.5), one, replace(one, latency_ms=2.1)]) == pytest.approx(0.1)
    assert repeats_within_ms([one, one]) == pytest.approx(0.03)


def test_what_other_choices_lose_is_judged_at_the_same_latency_and_at_the_same_top1():
    front = pd.DataFrame({"latency_ms_predicted": [1.0, 2.0, 4.0], "top1_predicted": [50.0, 60.0, 70.0]})
    by_macs = pd.DataFrame({"latency_ms_predicted": [1.0, 3.0], "top1_predicted": [50.0, 55.0]})
    lost = instead_of_macs(front, by_macs)
    assert lost["top1_lost_most_predicted"] == 5
    assert lost["latency_longer_most_percent_predicted"] == pytest.approx(50)
    chosen = pd.DataFrame({"latency_ms_measured": [2.0, 4.0], "top1_measured": [60.0, 70.0]})
    at_random = pd.DataFrame({"latency_ms_measured": [1.0, 2.0, 5.0], "top1_measured": [10.0, 61.0, 50.0]})
    found = instead_of_random(chosen, at_random)
    assert (found["subnets"], found["below_front"], found["top1_lost_most_measured"]) == (2, 1, 20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--points", "1"], "--points must be at least 2"),
        (["--measure", "-1"], "--measure must be 0 or more"),
        (["--tables", "nowhere"], "ofa-kit profile --device cpu-ort --run"),
        (["--run", "nothing"], "no run 'runs/nothing'"),
        (["--device", "cpu-ortt"], "did you mean 'cpu-ort'"),
    ],
)
def test_misuse_ends_with_one_line_and_exit_code_2(place, tmp_path, monkeypatch, capsys, options, said):
    run, tables = place
    monkeypatch.chdir(tmp_path)
    usual = {"--run": str(run.folder), "--tables": str(tables), "--out": str(tmp_path)}
    given = [word for pair in (usual | dict([options])).items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["ofa-kit", "pareto", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_a_table_from_elsewhere_is_drawn_but_cannot_be_added_to(tmp_path):
    run, tables = filled(tmp_path)
    facts = LatencyTable.open(tables, DEVICE, run.space).path.with_suffix(".json")
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"measured_elsewhere": True}))
    with pytest.raises(TableError, match="measured elsewhere or imported, so subnets of the front"):
        pareto(run, DEVICE, measure=1, search=SMALL, tables=tables)
    assert not (run.folder / "pareto-cpu-ort-chosen.csv").exists()


def test_without_top1_it_says_which_command_brings_some(tmp_path):
    run = new_run(tmp_path / "runs" / "new")
    with pytest.raises(TableError, match=r"at least 8 subnets .* found 0; run `ofa-kit measure-accuracy --run "):
        pareto(run, DEVICE, tables=tmp_path)
    table = AccuracyTable.open(run.accuracy, "other weights")
    for arch in spread_subnets(run.space, 9):
        table.add(arch, 50.0, images=500, calibration_images=500, measured_at=WHEN)
    with pytest.raises(TableError, match="with its present weights, found 0"):
        pareto(run, DEVICE, tables=tmp_path)
