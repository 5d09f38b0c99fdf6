"""A kit of a small space, and a Python as bare as a board's to run it in."""

import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace

from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.presets import preset
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.latency.board.bundle import Plan
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import TimingProtocol

SPACE = preset("mbv3-tiny")
RESOLUTIONS = (8, 12)
QUICK = TimingProtocol(sessions=2, rounds_per_block=3, pause_s=0.0, warmup_runs=2, warmup_s=0.0)
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
