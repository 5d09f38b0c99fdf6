"""Shared places and things: the command line as a process, real data where it is present."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each, and so the processes they start; BLAS asks at its import
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from ofa_kit.cli.main import main
from ofa_kit.config import shipped_profiles
from ofa_kit.training.allocator import keep_freed_memory
from tools.command_processes import start_command

REPO = Path(__file__).parents[1]
SHARE_WALK = {"test_main_job.py", "test_user_errors.py"}
SHORTER = {"train-supernet": ["--epochs", "8"], "profile": ["--subnets", "12", "--accuracy-subnets", "20"]}
QUICK = "{sessions: 2, rounds_per_block: 4, pause_s: 0.0, warmup_runs: 3, warmup_s: 0.0}"
LONG = ("walks", "commands", "training", "nas")
"""Folders of tests, the longest first: what is started last should be short."""
REAL_DATA = REPO.parent / "shared" / "data"


@dataclass(frozen=True)
class Done:
    """A finished process."""

    code: int
    out: str
    err: str


def ofa_kit(*arguments: str, cwd: Path, timeout_s: float = 300) -> Done:
    """Run the command line as a user does."""
    command = [sys.executable, "-c", "from ofa_kit.cli.main import main; main()", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, env=os.environ.copy())
    return Done(done.returncode, done.stdout, done.stderr)


def ofa_kit_forked(*arguments: str, cwd: Path, timeout_s: float = 300) -> Done:
    """Run the command line in a process of its own that need not import PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = start_command(*arguments, cwd=cwd, out=out, err=err)
        process.join(timeout_s)
        code = process.exitcode
        process.kill()
        assert code is not None, f"it took over {timeout_s} s: {err.read_text()}"
        return Done(code, out.read_text(), err.read_text())


def ofa_kit_here(*arguments: str, cwd: Path) -> Done:
    """Run the command line in this process: most of a short command is the import of PyTorch."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", ["ofa-kit", *arguments]),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


def real_data(name: str) -> Path:
    """Return a file of real data, or skip with the reason."""
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"real data not present: {name} (see README, 'Tests')")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pytest_configure() -> None:
    keep_freed_memory()
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the long ones."""
    rank = {folder: number for number, folder in enumerate(LONG)}
    items.sort(key=lambda item: min(rank.get(part, len(LONG)) for part in item.path.parts))


class ByFile(LoadScopeScheduling):
    """The tests of a file stay in one worker, and so do the files that share the walk."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "walk" if Path(file).name in SHARE_WALK else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)


@dataclass(frozen=True)
class Walk:
    """The folder in which README's commands were run, and what each printed."""

    folder: Path
    done: dict[str, Done]


def readme_commands() -> list[list[str]]:
    """Return the `ofa-kit` commands of README's quick start, split into words."""
    text = (REPO / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- quick start -->")[1].split("```")[1]
    return [line.split()[1:] for line in block.splitlines() if line.startswith("ofa-kit ")]


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Run README's quick start, only shorter: train, profile, specialize, table; with less timing than is shipped."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "profiles" / "devices").mkdir(parents=True)
    shipped = (shipped_profiles() / "devices" / "cpu-ort.yaml").read_text(encoding="utf-8")
    (folder / "profiles" / "devices" / "cpu-ort.yaml").write_text(f"{shipped}protocol: {QUICK}\n", encoding="utf-8")
    done = {}
    for command in readme_commands():
        done[command[0]] = ofa_kit_forked(*command, *SHORTER.get(command[0], []), cwd=folder)
        assert done[command[0]].code == 0, done[command[0]].err
    return Walk(folder, done)
