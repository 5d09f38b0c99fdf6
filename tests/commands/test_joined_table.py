"""The joined table of a run on a device: halves, front, comparisons, files."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ofa_kit.arch.selection import spread_subnets
from ofa_kit.cli.main import app
from ofa_kit.commands import table as module
from ofa_kit.commands.table import front, joined_table, refuse_format, screen_columns, select, write_table
from ofa_kit.errors import OfaKitError, StaleTableError, TableError, UnknownNameError
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors.accuracy_table import AccuracyTable
from tests.commands.runs import DEVICE, measure_latency, measure_top1, new_run

ACCURACY, LATENCY = 12, 16
"""Subnets with a measured top-1 and with a measured latency; the first are the same."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    run = new_run(folder / "runs" / "tiny")
    archs = spread_subnets(run.space, LATENCY)
    measure_top1(run, archs[:ACCURACY])
    measure_latency(run, archs, folder / "latency_tables")
    return run, folder / "latency_tables"


@pytest.fixture(scope="module")
def joined(measured):
    return joined_table(measured[0], DEVICE, tables=measured[1])


def test_every_measured_subnet_is_a_row_with_what_was_measured_and_predictions_of_the_rest(measured, joined):
    run, tables = measured
    frame = joined.frame.set_index("key")
    accuracy = AccuracyTable.open(run.accuracy, run.load_supernet()[1])
    times = LatencyTable.open(tables, DEVICE, run.space).subnets
    assert set(frame.index) == accuracy.rows.keys() | times.keys()
    assert frame["top1_measured"].dropna().to_dict() == {key: top1 for key, (_, top1) in accuracy.rows.items()}
    assert frame["latency_ms_measured"].dropna().to_dict() == {key: m.latency_ms for key, (_, m) in times.items()}
    assert frame["top1_standard_error"].notna().sum() == ACCURACY
    for name in ("top1", "latency_ms"):
        assert frame[[f"{name}_predicted", f"{name}_error"]].notna().all(axis=None)
    assert joined.missing == ()
    assert set(screen_columns(joined.frame)) <= set(joined.frame.columns)


def test_measured_and_predicted_values_are_never_weighed_against_each_other(joined):
    frame = joined.frame
    known = frame["top1_measured"].notna() & frame["latency_ms_measured"].notna()
    best = frame[frame["pareto"] == "measured"]
    assert known[best.index].all()
    for _, row in best.iterrows():
        beats = (frame["latency_ms_measured"] <= row["latency_ms_measured"]) & (
            frame["top1_measured"] > row["top1_measured"]
        )
        assert not beats.any()
    hoped = frame[frame["pareto"] == "predicted"]
    assert not known[hoped.index].any()
    for _, row in hoped.iterrows():
        beats = (frame["latency_ms_predicted"] <= row["latency_ms_predicted"]) & (
            frame["top1_predicted"] > row["top1_predicted"]
        )
        assert not beats.any()


def test_the_front_keeps_the_best_of_equals_and_nothing_unknown():
    cost = np.array([1.0, 1.0, 2.0, 3.0, np.nan, np.inf, 0.5])
    top1 = np.array([50.0, 60.0, 60.0, 70.0, 99.0, 99.0, np.nan])
    assert front(cost, top1).tolist() == [False, True, False, True, False, False, False]


def test_half_a_table_says_which_command_brings_the_other_half(measured, tmp_path):
    run, tables = measured
    accuracy_only = joined_table(run, DEVICE, tables=tmp_path)
    assert accuracy_only.cost == "macs_m"
    assert len(accuracy_only.frame) == ACCURACY
    assert "latency_ms_predicted" not in accuracy_only.frame
    assert (accuracy_only.frame["pareto"] == "measured").any()
    assert [line.split("`")[1][:15] for line in accuracy_only.missing] == ["ofa-kit profile"]
    other = new_run(tmp_path / "other")
    with pytest.raises(TableError, match="nothing was measured yet; run `ofa-kit profile"):
        joined_table(other, DEVICE, tables=tmp_path)
    latency_only = joined_table(other, DEVICE, tables=tables)
    assert latency_only.frame["top1_predicted"].isna().all()
    assert (latency_only.frame["pareto"] == "").all()
    assert "ofa-kit measure-accuracy" in latency_only.missing[0]


def test_a_table_of_another_space_is_no_missing_table(measured, tmp_path):
    run, tables = measured
    path = next(tables.rglob("*.json"))
    text = path.read_text().replace(run.space.fingerprint, "0" * 12)
    target = tmp_path / path.relative_to(tables)
    target.parent.mkdir(parents=True)
    target.write_text(text)
    with pytest.raises(StaleTableError, match="was measured for space"):
        joined_table(run, DEVICE, tables=tmp_path)


def test_rows_are_chosen_by_comparisons_and_ordered_by_a_column(joined):
    frame = joined.frame
    chosen = select(frame, where=["macs_m >= 0.1", "resolution!=8"], sort="-top1_measured")
    assert set(chosen["key"]) == set(frame[(frame["macs_m"] >= 0.1) & (frame["resolution"] != 8)]["key"])
    known = chosen["top1_measured"].dropna()
    assert known.is_monotonic_decreasing
    assert chosen["top1_measured"].isna().tolist()[len(known) :] == [True] * (len(chosen) - len(known))
    assert select(frame, where=["top1_measured!=-1"])["top1_measured"].notna().all()
    best = select(frame, pareto=True, limit=2)
    assert best["key"].tolist() == frame[frame["pareto"] != ""]["key"].tolist()[:2]
    assert select(frame, where=["macs_m<0"]).empty


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"where": ["macs<3"]}, UnknownNameError, "did you mean 'macs_m'"),
        ({"where": ["key==3"]}, UnknownNameError, "column of numbers 'key'.*known: .*latency_ms_predicted"),
        ({"where": ["macs_m=3"]}, OfaKitError, "OP one of <=, >=, ==, !=, <, >; found 'macs_m=3'"),
        ({"where": ["macs_m<__import__('os').getpid()"]}, OfaKitError, "COLUMN OP NUMBER"),
        ({"where": ["macs_m<3 or 1"]}, OfaKitError, "COLUMN OP NUMBER"),
        ({"sort": "-top1"}, UnknownNameError, "unknown column 'top1'"),
        ({"limit": 0}, OfaKitError, "at least 1"),
    ],
)
def test_what_cannot_be_chosen_is_named_in_one_line(joined, options, error, text):
    with pytest.raises(error, match=text) as found:
        select(joined.frame, **options)
    assert "\n" not in str(found.value)


def test_a_csv_file_holds_all_columns(joined, tmp_path):
    write_table(joined.frame, tmp_path / "table.csv")
    again = pd.read_csv(tmp_path / "table.csv", keep_default_na=True)
    assert again.columns.tolist() == joined.frame.columns.tolist()
    assert again["key"].tolist() == joined.frame["key"].tolist()
    assert again["top1_predicted"].to_numpy() == pytest.approx(joined.frame["top1_predicted"].to_numpy(), rel=1e-5)


def test_a_parquet_file_holds_the_same_values(joined, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    write_table(joined.frame, tmp_path / "table.parquet")
    again = pd.read_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(again, joined.frame, check_dtype=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "table.parquet"]


def test_files_that_cannot_be_written_are_refused_before_anything_is_fitted(monkeypatch, tmp_path):
    with pytest.raises(TableError, match=r"takes a \.csv or \.parquet file"):
        refuse_format(tmp_path / "table.xlsx")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(OfaKitError, match=r"needs the package pyarrow; install `ofa-kit\[parquet\]`"):
        refuse_format(tmp_path / "table.parquet")


def test_the_command_prints_the_rows_asked_for(measured, joined):
    run, tables = measured
    common = ["table", "--run", str(run.folder), "--tables", str(tables)]
    done = CliRunner().invoke(app, [*common, "--pareto", "--sort", "-macs_m", "--json"], catch_exceptions=False)
    rows = json.loads(done.stdout)
    assert {row["key"] for row in rows} == set(joined.frame[joined.frame["pareto"] != ""]["key"])
    assert [row["macs_m"] for row in rows] == sorted((row["macs_m"] for row in rows), reverse=True)
    shown = CliRunner().invoke(app, [*common, "--where", "macs_m<0"], catch_exceptions=False)
    assert shown.stdout == f"none of {LATENCY} rows is left\n"
