import ast
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import pytest

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.presets import preset
from ofa_kit.errors import BackendError, OfaKitError
from ofa_kit.latency.board.bundle import RUNNER, write_bundle
from ofa_kit.latency.protocol import EXTRA_SESSIONS
from tests.latency.board.kits import (
    BLOCKS,
    DEVICE,
    PLAN,
    QUICK,
    RESOLUTIONS,
    SPACE,
    SUBNETS,
    Ran,
    command,
    rows_of,
    run,
    unpacked,
)

SESSIONS = range(QUICK.sessions, QUICK.sessions + EXTRA_SESSIONS + 1)


def test_every_block_and_subnet_is_measured_with_numpy_and_onnxruntime_alone(measured):
    rows = rows_of(measured)
    assert {key for kind, key in rows if kind == "block"} == BLOCKS
    subnets = [key for kind, key in rows if kind == "subnet"]
    assert set(subnets) == {arch.key for arch in SUBNETS}
    assert set(map(subnets.count, subnets)) <= set(SESSIONS)
    facts = json.loads((measured / "results.json").read_text())
    assert facts["reference_ms"] > 0
    assert {"processor", "cores", "system", "memory_gib"} <= facts["machine"].keys()


def test_the_same_inputs_give_the_same_bytes_with_the_timing_code_of_this_package(archive, tmp_path):
    write_bundle(tmp_path / "again.zip", DEVICE, SPACE, SUBNETS, RESOLUTIONS, PLAN)
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    with zipfile.ZipFile(archive) as kit:
        assert all(kit.read(name) == source.read_bytes() for name, source in RUNNER.items())
    assert "latency/protocol.py" in RUNNER


@pytest.mark.parametrize("source", RUNNER.values(), ids=RUNNER)
def test_what_goes_to_the_board_is_python_3_8_and_imports_nothing_but_numpy_and_onnxruntime(source):
    tree = ast.parse(source.read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    allowed = sys.stdlib_module_names | {"numpy", "onnxruntime"}
    assert {name.partition(".")[0] for name in imported} <= allowed


def test_a_kit_holds_graphs_in_the_precision_of_its_device(tmp_path):
    write_bundle(tmp_path / "kit.zip", replace(DEVICE, precision="int8"), SPACE, [SPACE.smallest()], (8,), PLAN)
    with zipfile.ZipFile(tmp_path / "kit.zip") as kit:
        graphs = [name for name in kit.namelist() if name.endswith(".onnx")]
        assert len(graphs) == 3
        assert all(b"DequantizeLinear" in kit.read(name) for name in graphs)


def test_a_killed_runner_goes_on_and_measures_nothing_twice(tmp_path):
    slow = replace(DEVICE, protocol=replace(QUICK, rounds_per_block=10))
    write_bundle(tmp_path / "kit.zip", slow, SPACE, SUBNETS, RESOLUTIONS, replace(PLAN, chunk=1))
    kit = unpacked(tmp_path / "kit.zip", tmp_path / "kit")
    table = kit / "results" / "results.csv"
    with subprocess.Popen(command(kit), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s and not (table.exists() and b"subnet" in table.read_bytes()):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    before = table.read_text()
    assert sum(kind == "subnet" for kind, _ in rows_of(table.parent)) < len(SUBNETS) * QUICK.sessions
    table.write_text(before + "subnet,torn off in the mid")
    done = run(kit)
    assert done.code == 0, done.err
    assert table.read_text().startswith(before)
    rows = rows_of(table.parent)
    assert {key for _, key in rows} == BLOCKS | {arch.key for arch in SUBNETS}
    assert all(rows.count(["block", key]) == QUICK.sessions for key in BLOCKS)
    assert all(rows.count(["subnet", arch.key]) in SESSIONS for arch in SUBNETS)
    complete = table.read_bytes()
    assert run(kit).code == 0
    assert table.read_bytes() == complete


def refused(done):
    """The one line of a refusal."""
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    return done.err


def test_a_damaged_file_is_named(kit):
    graph = kit / "graphs" / f"subnet-{SUBNETS[2].key}.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert str(graph) in refused(run(kit))
    graph.unlink()
    assert "missing or damaged" in refused(run(kit))
    (kit / "manifest.json").write_text("{")
    assert "manifest.json' is missing or damaged" in refused(run(kit))


def test_a_missing_package_is_named_and_help_needs_none(kit):
    bare = [sys.executable, "-I", "-S", str(kit / "run.py")]
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert "package numpy is not installed" in refused(Ran(done.returncode, done.stdout, done.stderr))
    helped = subprocess.run([*bare, "--help"], capture_output=True, text=True, check=True)
    assert "--results FOLDER" in helped.stdout


def test_a_missing_provider_is_an_error_not_a_fall_back(kit):
    manifest = json.loads((kit / "manifest.json").read_text())
    manifest["device"]["provider"] = "NoSuchProvider"
    (kit / "manifest.json").write_text(json.dumps(manifest))
    assert "the kit is for NoSuchProvider, this onnxruntime has" in refused(run(kit))


def test_results_take_one_runner_of_one_kit_at_a_time(kit, measured, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(measured, other)
    facts = json.loads((other / "results.json").read_text())
    (other / "results.json").write_text(json.dumps(facts | {"kit": "000000000000"}))
    assert "is of kit 000000000000" in refused(run(kit, "--results", other))
    with (other / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another runner is at work" in refused(run(kit, "--results", other))


def test_what_a_kit_cannot_do_is_said_before_it_is_made(tmp_path):
    path = tmp_path / "kit.zip"
    with pytest.raises(BackendError, match="asks for tensorrt and eager"):
        write_bundle(path, replace(DEVICE, backend="tensorrt"), SPACE, SUBNETS, RESOLUTIONS)
    with pytest.raises(BackendError, match="runs fp32"):
        write_bundle(path, replace(DEVICE, precision="fp16"), SPACE, SUBNETS, RESOLUTIONS)
    with pytest.raises(OfaKitError, match="has no resolution 13"):
        write_bundle(path, DEVICE, SPACE, SUBNETS, (8, 13))
    with pytest.raises(OfaKitError, match="add it to the kit's resolutions"):
        write_bundle(path, DEVICE, SPACE, SUBNETS, (8,))
    stranger = ArchConfig(8, preset("mbv3-small-images").smallest().stages)
    with pytest.raises(OfaKitError, match="is not in the space 'mbv3-tiny'"):
        write_bundle(path, DEVICE, SPACE, [stranger], (8,))
    assert not path.exists()
