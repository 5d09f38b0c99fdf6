"""Latency tables made, checked and compared on this machine."""

import csv
import shutil
from dataclasses import replace

import pytest

from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.presets import preset
from ofa_kit.commands.check_table import check_table, refuse_stale
from ofa_kit.commands.compare_tables import compare_tables
from ofa_kit.commands.profile import profile
from ofa_kit.errors import OfaKitError, StaleTableError, TableError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import EXTRA_SESSIONS, Measurement, TimingProtocol
from ofa_kit.latency.table import LatencyTable

SPACE = preset("mbv3-tiny")
DEVICE = replace(DeviceProfile.load("cpu-ort"), protocol=TimingProtocol(sessions=2, rounds_per_block=10, pause_s=0.1))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = tmp_path_factory.mktemp("tables")
    profile(DEVICE, SPACE, resolutions=[16], subnets=4, tables=root)
    return root


def scaled(path, target, factor):
    """Copy a table with all times multiplied."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["latency_ms"] = str(float(row["latency_ms"]) * factor)
    target.parent.mkdir(parents=True)
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    shutil.copy(path.with_suffix(".json"), target.with_suffix(".json"))


def test_only_the_resolutions_asked_for_are_measured_and_others_can_follow(tables):
    table = LatencyTable.open(tables, DEVICE, SPACE)
    assert table.blocks.keys() == distinct_layers(SPACE, 16).keys()
    assert {arch.resolution for arch, _ in table.subnets.values()} == {16}
    with pytest.raises(OfaKitError, match="'mbv3-tiny' has no resolution 17; it has 8"):
        profile(DEVICE, SPACE, resolutions=[16, 17], tables=tables)
    before = table.path.read_text()
    grown = profile(DEVICE, SPACE, resolutions=[8], subnets=4, tables=tables).table
    assert grown.path.read_text().startswith(before)
    assert {arch.resolution for arch, _ in grown.subnets.values()} == {8, 16}


def test_a_check_measures_again_and_a_table_of_a_faster_machine_is_stale(tables, tmp_path):
    checked = check_table(DEVICE, SPACE, subnets=3, tables=tables)
    steady = [arch.key for arch, found in LatencyTable.open(tables, DEVICE, SPACE).subnets.values() if found.converged]
    assert len(checked.keys) == (min(3, len(steady)) or 3)
    assert set(checked.keys) <= set(steady) or not steady
    assert min(checked.now_ms) > 0
    refuse_stale(replace(checked, now_ms=[1.02 * ms for ms in checked.stored_ms]), tables)
    path = next(tables.rglob("*.csv"))
    scaled(path, tmp_path / path.relative_to(tables), 0.3)
    with pytest.raises(StaleTableError, match="no longer holds: its subnets take"):
        refuse_stale(check_table(DEVICE, SPACE, subnets=3, tables=tmp_path), path)


def test_tables_are_compared_row_by_row(tables, tmp_path):
    path = next(tables.rglob("*.csv"))
    scaled(path, tmp_path / "slow" / "b.csv", 2.0)  # exact in binary, so that equal times stay equal
    compared = compare_tables(path, tmp_path / "slow" / "b.csv")
    assert compared.differences == {}
    assert [found.kind for found in compared.agreements] == ["block", "subnet"]
    for found in compared.agreements:
        assert found.ratio == pytest.approx(2.0, rel=1e-3)
        assert found.tau == pytest.approx(1.0)
        assert found.within_5 == 0.0


def test_tables_of_two_spaces_are_not_compared(tables, tmp_path):
    path = next(tables.rglob("*.csv"))
    other = LatencyTable.create(tmp_path, DEVICE, preset("resnet-small-images"), {})
    other.add_blocks([("a", 1.0)], runs=1, load=0.0, measured_at="2026-01-01T00:00:00Z")
    with pytest.raises(TableError, match=r"is of space 'mbv3-tiny' .* of 'resnet-small-images'"):
        compare_tables(path, other.path)
    with pytest.raises(TableError, match="no latency table"):
        compare_tables(path, tmp_path / "nowhere.csv")


def test_a_subnet_is_its_least_floor_and_lacks_sessions_until_two_agree(tmp_path):
    table = LatencyTable.create(tmp_path, DEVICE, SPACE, {})
    arch, when = SPACE.largest(), {"load": 0.0, "measured_at": "2026-01-01T00:00:00Z"}
    found = Measurement(latency_ms=2.0, p50_ms=2.5, p90_ms=3, p99_ms=4, cv=0.1, runs=9, converged=True)
    assert table.lacks(arch, session=0)
    for ms in (2.0, 3.0):
        table.add_subnet(arch, replace(found, latency_ms=ms), **when)
    assert not table.lacks(arch, session=1)
    assert not table.subnets[arch.key][1].converged
    table.add_subnet(arch, replace(found, latency_ms=1.0), **when)
    assert table.lacks(arch, session=3)  # as many as the protocol asks for, but no two agree
    table.add_subnet(arch, replace(found, latency_ms=1.01, p99_ms=9.0), **when)
    for opened in (table, LatencyTable.open(tmp_path, DEVICE, SPACE)):
        value = opened.subnets[arch.key][1]
        assert (value.latency_ms, value.p50_ms, value.p99_ms, value.runs) == (1.0, 2.5, 9.0, 36)
        assert value.converged
        assert not opened.lacks(arch, session=9)


def test_a_subnet_whose_sessions_are_all_disturbed_is_given_up(tmp_path):
    table = LatencyTable.create(tmp_path, DEVICE, SPACE, {})
    arch, when = SPACE.largest(), {"load": 0.0, "measured_at": "2026-01-01T00:00:00Z"}
    found = Measurement(latency_ms=2.0, p50_ms=2.5, p90_ms=3, p99_ms=4, cv=0.1, runs=9, converged=False)
    for number in range(DEVICE.protocol.sessions + EXTRA_SESSIONS):
        assert table.lacks(arch, session=number)
        table.add_subnet(arch, found, **when)
    assert len(table.sessions[arch.key]) == DEVICE.protocol.sessions + EXTRA_SESSIONS
    assert not table.lacks(arch, session=99)
    assert not table.subnets[arch.key][1].converged
