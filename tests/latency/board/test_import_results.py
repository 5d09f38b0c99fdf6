import json
import math
import re
import shutil
from dataclasses import replace

import pytest

from ofa_kit.commands.board import import_board_results
from ofa_kit.errors import StaleTableError, TableError
from ofa_kit.latency.table import COLUMNS, LatencyTable
from ofa_kit.storage import read_rows
from tests.latency.board.kits import BLOCKS, DEVICE, SPACE, SUBNETS


def test_results_become_the_table_of_their_device_once(measured, tmp_path):
    table = import_board_results(measured, tmp_path)
    assert table.path == tmp_path / "some-board" / "onnxruntime-fp32-bs1" / "mbv3-tiny.csv"
    assert table.blocks.keys() == BLOCKS
    assert {key: arch for key, (arch, _) in table.subnets.items()} == {arch.key: arch for arch in SUBNETS}
    assert LatencyTable.open(tmp_path, DEVICE, SPACE) == table
    floors = {}
    for row in read_rows(measured / "results.csv", COLUMNS):
        floors[row["key"]] = min(float(row["latency_ms"]), floors.get(row["key"], math.inf))
    found = table.blocks | {key: value.latency_ms for key, (_, value) in table.subnets.items()}
    assert found == pytest.approx(floors, abs=1e-6)
    content = [path.read_bytes() for path in sorted(table.path.parent.iterdir())]
    shutil.make_archive(str(tmp_path / "packed"), "zip", measured.parent, "results")
    for again in (measured, measured / "results.csv", tmp_path / "packed.zip"):
        import_board_results(again, tmp_path)
        assert [path.read_bytes() for path in sorted(table.path.parent.iterdir())] == content
    assert table.provenance["reference_ms"] == json.loads((measured / "results.json").read_text())["reference_ms"]


def of_processor(measured, folder, name):
    shutil.copytree(measured, folder)
    facts = json.loads((folder / "results.json").read_text())
    facts["machine"]["processor"] = name
    (folder / "results.json").write_text(json.dumps(facts))
    return folder


def test_a_table_from_another_machine_opens_here_and_takes_no_third_machines_rows(measured, tmp_path):
    table = import_board_results(of_processor(measured, tmp_path / "a", "Cortex-A72"), tmp_path / "tables")
    assert LatencyTable.open(tmp_path / "tables", DEVICE, SPACE).subnets == table.subnets
    content = table.path.read_bytes()
    with pytest.raises(StaleTableError, match="is of processor Cortex-A72"):
        import_board_results(of_processor(measured, tmp_path / "b", "Cortex-A53"), tmp_path / "tables")
    assert table.path.read_bytes() == content


def swapped(name, old, new):
    def damage(results):
        path = results / name
        content, found = re.subn(old, new, path.read_text(), count=1)
        assert found
        path.write_text(content)

    return damage


def written(name, content):
    return lambda results: (results / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swapped("results.csv", "\nblock,", "\nbrick,"), r"line 2 is damaged or foreign \(kind 'brick'\)"),
        (swapped("results.csv", ":k3:", ":k4:"), "line 2 is damaged or foreign .*no block"),
        (swapped("results.csv", ",(True|False),", ",perhaps,"), "converged 'perhaps'"),
        (swapped("results.csv", f"subnet,{SUBNETS[1].key}", "subnet,000000000000"), "is not the key of a subnet"),
        (swapped("results.csv", ",cv,", ",sd,"), "expected kind,key"),
        (written("results.csv", b"\xff\xfe\n"), "is damaged"),
        (written("results.csv", b""), "no rows yet"),
        (swapped("results.json", SPACE.fingerprint, "0123456789ab"), "its space is not 0123456789ab"),
        (swapped("results.json", '"num_classes": 10', '"num_classes": 11'), f"its space is not {SPACE.fingerprint}"),
        (swapped("results.json", '"format": 1', '"format": 9'), "has format 9, this ofa-kit reads 1"),
        (swapped("results.json", '"threads": 1', '"threads": "many"'), "results.json is damaged"),
        (written("results.json", b"{"), "results.json is damaged"),
        (lambda results: (results / "results.json").unlink(), "has no results.json"),
    ],
)
def test_damaged_or_foreign_results_are_refused_and_nothing_is_written(measured, tmp_path, damage, message):
    results = tmp_path / "results"
    shutil.copytree(measured, results)
    damage(results)
    with pytest.raises(TableError, match=message) as refused:
        import_board_results(results, tmp_path / "tables")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "tables").exists()


def test_results_of_an_older_preset_are_refused(measured, tmp_path, monkeypatch):
    other = {"mbv3-tiny": replace(SPACE, first_width=24)}
    monkeypatch.setattr("ofa_kit.latency.board.import_results.PRESETS", other)
    with pytest.raises(StaleTableError, match="make a new kit"):
        import_board_results(measured, tmp_path / "tables")
