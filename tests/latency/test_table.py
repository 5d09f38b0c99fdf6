import json
from dataclasses import asdict, replace

import pytest

from ofa_kit.arch.presets import preset
from ofa_kit.errors import StaleTableError, TableError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.latency.table import LatencyTable

SPACE = preset("mbv3-tiny")
PROFILE = DeviceProfile.load("cpu-ort")
FOUND = Measurement(latency_ms=0.5, p50_ms=0.6, p99_ms=0.9, cv=0.01, p90_ms=0.7, runs=50, converged=True)
WHEN = {"load": 0.5, "measured_at": "2026-01-01T00:00:00Z"}


def new_table(root):
    return LatencyTable.create(root, PROFILE, SPACE, {"device": asdict(PROFILE)})


def test_rows_come_back_as_they_were_added(tmp_path, rng):
    table = new_table(tmp_path)
    archs = list({arch.key: arch for arch in (SPACE.sample(rng) for _ in range(5))}.values())
    for arch in archs:
        table.add_subnet(arch, FOUND, **WHEN)
    table.add_blocks([("a:b", 0.25), ("c", 0.125)], runs=10, **WHEN)
    table.add_blocks([("a:b", 0.5)], runs=10, **WHEN)
    table.add_failure(SPACE.largest(), "out of memory", **WHEN)
    again = LatencyTable.open(tmp_path, PROFILE, SPACE)
    assert again.subnets == table.subnets == {arch.key: (arch, FOUND) for arch in archs}
    assert again.blocks == {"a:b": 0.25, "c": 0.125}
    assert again.failed == {SPACE.largest().key: "out of memory"}
    assert len(table.path.read_text().splitlines()) == 1 + len(archs) + 3 + 1


def test_a_table_of_another_space_or_device_is_refused(tmp_path):
    new_table(tmp_path)
    with pytest.raises(StaleTableError, match="was measured for space 'mbv3-tiny'"):
        LatencyTable.open(tmp_path, PROFILE, replace(SPACE, first_width=24))
    with pytest.raises(StaleTableError, match="'threads': 1"):
        LatencyTable.open(tmp_path, replace(PROFILE, threads=2), SPACE)
    with pytest.raises(TableError, match="no latency table for device 'cpu-ort' and space 'mbv3-small-images'"):
        LatencyTable.open(tmp_path, PROFILE, preset("mbv3-small-images"))


def test_damage_is_named(tmp_path, rng):
    table = new_table(tmp_path)
    table.add_subnet(SPACE.sample(rng), FOUND, **WHEN)
    table.path.write_text(table.path.read_text().replace("0.500000", "fast"))
    with pytest.raises(TableError, match="damaged row subnet"):
        LatencyTable.open(tmp_path, PROFILE, SPACE)
    table.path.with_suffix(".json").write_text("{")
    with pytest.raises(TableError, match=r"json' is damaged"):
        LatencyTable.open(tmp_path, PROFILE, SPACE)


def test_the_reference_time_is_stored_once(tmp_path):
    table = new_table(tmp_path)
    assert (table.reference_ms(0.3), table.reference_ms(0.9)) == (0.3, 0.3)
    assert json.loads(table.path.with_suffix(".json").read_text())["reference_ms"] == 0.3
