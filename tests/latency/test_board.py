import ast
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.presets import preset
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.commands.board import import_board_results, profile_ssh
from ofa_kit.errors import BackendError, OfaKitError, StaleTableError, TableError
from ofa_kit.latency.board.bundle import RUNNER, Plan, write_bundle
from ofa_kit.latency.board.runner.results import ATTEMPTS
from ofa_kit.latency.board.ssh import profile_over_ssh
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import TimingProtocol
from ofa_kit.latency.table import COLUMNS, LatencyTable
from ofa_kit.storage import read_rows

SPACE = preset("mbv3-tiny")
RESOLUTIONS = (8, 12)
QUICK = TimingProtocol(rounds_per_block=3, pause_s=0.0, warmup_runs=2, warmup_s=0.0)
DEVICE = replace(DeviceProfile.load("cpu-ort"), name="some-board", protocol=QUICK)
SUBNETS = spread_subnets(replace(SPACE, resolutions=RESOLUTIONS), 6)
BLOCKS = {key for resolution in RESOLUTIONS for key in distinct_layers(SPACE, resolution)}
PLAN = Plan(block_runs=3, chunk=3)
ABSENT_ON_A_BOARD = {"ofa_kit", "torch", "onnx", "pydantic", "yaml"}
GUARD = f"""
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT_ON_A_BOARD}:
            sys.stderr.write(f"refused to import {{name}}\\n")
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def command(kit, *arguments):
    """The runner in a Python that has nothing which a board lacks."""
    return [sys.executable, "-I", "-c", GUARD, str(kit / "run.py"), *map(str, arguments)]


def run(kit, *arguments):
    done = subprocess.run(command(kit, *arguments), capture_output=True, text=True, timeout=120, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def unpacked(archive, folder):
    with zipfile.ZipFile(archive) as kit:
        kit.extractall(folder)
    return folder


def rows_of(results):
    lines = (results / "results.csv").read_text().splitlines()[1:]
    return [line.split(",")[:2] for line in lines]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("kit") / "kit.zip"
    assert write_bundle(path, DEVICE, SPACE, SUBNETS, RESOLUTIONS, PLAN).blocks == len(BLOCKS)
    return path


@pytest.fixture
def kit(archive, tmp_path):
    return unpacked(archive, tmp_path / "kit")


@pytest.fixture(scope="module")
def measured(archive, tmp_path_factory):
    """The results of one whole run."""
    kit = unpacked(archive, tmp_path_factory.mktemp("board") / "kit")
    done = run(kit)
    assert done.code == 0, done.err
    assert "refused" not in done.err
    assert done.out.strip() == str(kit / "results")
    return kit / "results"


def test_every_block_and_subnet_is_measured_with_numpy_and_onnxruntime_alone(measured):
    rows = rows_of(measured)
    assert {key for kind, key in rows if kind == "block"} == BLOCKS
    subnets = [key for kind, key in rows if kind == "subnet"]
    assert set(subnets) == {arch.key for arch in SUBNETS}
    assert max(map(subnets.count, subnets)) <= ATTEMPTS
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
    assert len({key for kind, key in rows_of(table.parent) if kind == "subnet"}) < len(SUBNETS)
    table.write_text(before + "subnet,torn off in the mid")
    done = run(kit)
    assert done.code == 0, done.err
    assert table.read_text().startswith(before)
    rows = rows_of(table.parent)
    assert {key for _, key in rows} == BLOCKS | {arch.key for arch in SUBNETS}
    assert all(rows.count(["block", key]) == 1 for key in BLOCKS)
    assert all(1 <= rows.count(["subnet", arch.key]) <= ATTEMPTS for arch in SUBNETS)
    complete = table.read_bytes()
    assert run(kit).code == 0
    assert table.read_bytes() == complete


def test_results_become_the_table_of_their_device_once(measured, tmp_path):
    table = import_board_results(measured, tmp_path)
    assert table.path == tmp_path / "some-board" / "onnxruntime-fp32-bs1" / "mbv3-tiny.csv"
    assert table.blocks.keys() == BLOCKS
    assert {key: arch for key, (arch, _) in table.subnets.items()} == {arch.key: arch for arch in SUBNETS}
    assert LatencyTable.open(tmp_path, DEVICE, SPACE) == table
    counts = {}  # of several rows of one subnet, the first, or the first that had converged
    for row in read_rows(measured / "results.csv", COLUMNS):
        if row["key"] not in counts or (row["converged"] == "True" and counts[row["key"]]["converged"] == "False"):
            counts[row["key"]] = row
    found = table.blocks | {key: value.latency_ms for key, (_, value) in table.subnets.items()}
    assert found == pytest.approx({key: float(row["latency_ms"]) for key, row in counts.items()}, abs=1e-6)
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
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return damage


def written(name, content):
    return lambda results: (results / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swapped("results.csv", "\nblock,", "\nbrick,"), r"line 2 is damaged or foreign \(kind 'brick'\)"),
        (swapped("results.csv", ":k3:", ":k4:"), "line 2 is damaged or foreign .*no block"),
        (swapped("results.csv", ",True,", ",perhaps,"), "converged 'perhaps'"),
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


FAKE_SSH = """#!/bin/sh
# Runs the command on this machine with a home of its own, as a board would.
while [ "$1" != -- ]; do shift; done
host=$2; shift 2
echo "$*" | head -c 300 | tr '\\n' ' ' >> "$BOARD_HOME/commands"; echo >> "$BOARD_HOME/commands"
if [ "$host" = gone ]; then
    echo "ssh: Could not resolve hostname gone: Name or service not known" >&2
    exit 255
fi
HOME="$BOARD_HOME" exec sh -c "$*"
"""


@pytest.fixture
def board(tmp_path, monkeypatch):
    """The home folder of a board that a stand-in for ssh reaches."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    (programs / "ssh").write_text(FAKE_SSH)
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("BOARD_HOME", str(home))
    return home


class Lines:
    """A reporter that keeps what is said."""

    def __init__(self):
        self.said = []

    def task(self, title, total):
        raise NotImplementedError

    def say(self, text):
        self.said.append(text)


def test_a_board_is_profiled_over_ssh_and_the_same_call_goes_on(board, tmp_path):
    lines = Lines()
    places = {"kits": tmp_path / "kits", "tables": tmp_path / "tables", "python": sys.executable}
    table = profile_ssh(DEVICE, SPACE, "pi", subnets=4, resolutions=[8], reporter=lines, **places)
    assert table.blocks.keys() == set(distinct_layers(SPACE, 8))
    assert len(table.subnets) == 4
    assert any(line.startswith("pi: subnets") for line in lines.said)
    content = table.path.read_bytes()
    [kit] = (board / ".cache").glob("ofa-kit-kit-*")
    inode = kit.stat().st_ino
    again = profile_ssh(DEVICE, SPACE, "pi", subnets=4, resolutions=[8], **places)
    assert again.path.read_bytes() == content
    assert [path.stat().st_ino for path in (board / ".cache").glob("ofa-kit-kit-*")] == [inode]
    (kit / "graphs" / "weights.bin").write_bytes(b"")
    with pytest.raises(BackendError, match=r"^'pi': .*weights.bin' is missing or damaged"):
        profile_ssh(DEVICE, SPACE, "pi", subnets=4, resolutions=[8], **places)


@pytest.mark.parametrize(
    ("host", "python", "message"),
    [
        ("gone", "python3", r"^no connection to 'gone': ssh: Could not resolve hostname .* run the command again$"),
        ("pi", "python2.9", r"^'pi' cannot run 'python2.9' \(.*not found\); install Python 3.8"),
    ],
)
def test_a_board_that_cannot_be_used_is_one_clear_line(board, archive, tmp_path, host, python, message):
    with pytest.raises(BackendError, match=message) as refused:
        profile_over_ssh(host, archive, python, results=tmp_path / "results")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "results").exists()


def test_a_missing_ssh_client_and_a_file_that_is_no_kit_are_named(archive, tmp_path, monkeypatch):
    with pytest.raises(OfaKitError, match="is not a kit"):
        profile_over_ssh("pi", Path(__file__), results=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match="no `ssh` on PATH"):
        profile_over_ssh("pi", archive, results=tmp_path)
