"""Shared places and things: the command line as a process, real data where it is present."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_kit.training.allocator import keep_freed_memory

REPO = Path(__file__).parents[1]
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
    """Give each of the parallel workers one thread, and so the processes that its tests start."""
    keep_freed_memory()
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file, and all that share the walk, in one worker; start with the long ones."""
    for item in items:
        shares_walk = "walk" in getattr(item, "fixturenames", ())
        if "PYTEST_XDIST_WORKER" in os.environ:  # its own marker comes too late for xdist
            item._nodeid = f"{item.nodeid}@{'walk' if shares_walk else item.path.stem}"
    items.sort(key=lambda item: "walks" not in item.path.parts)


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
    """Run README's quick start, with fewer epochs: train, profile, specialize, table."""
    folder = tmp_path_factory.mktemp("walk")
    done = {}
    for command in readme_commands():
        shorter = ["--epochs", "10"] if command[0] == "train-supernet" else []
        done[command[0]] = ofa_kit(*command, *shorter, cwd=folder)
        assert done[command[0]].code == 0, done[command[0]].err
    return Walk(folder, done)
