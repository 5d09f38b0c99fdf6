"""The command line as a process of its own, forked from one that has imported PyTorch: most commands take less time."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ofa_kit.cli.main import main
from ofa_kit.training.clean_processes import process_context

COMMANDS = ("measure_accuracy", "profile", "search_nas_rl", "search_spos", "specialize", "train_supernet")
LIBRARIES = ("onnxruntime", "scipy.stats", "sklearn.datasets", "torch._dynamo", "torchvision.transforms.v2")
PRELOADED = [*LIBRARIES, __name__, *(f"ofa_kit.commands.{name}" for name in COMMANDS)]
"""What takes seconds to import; PyTorch's optimizers import its compiler at their first step."""


def start_command(
    *arguments: str,
    cwd: Path,
    out: Path | None = None,
    err: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start `ofa-kit ARGUMENTS` in a folder, with more variables; what it prints goes to files, or nowhere."""
    return start_process(_command, arguments, cwd, out, err, dict(environment or {}))


def start_process(what: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a function in a process as the command line has it."""
    process: BaseProcess = process_context(PRELOADED).Process(target=what, args=arguments)
    process.start()
    return process


def kill_when(happened: Callable[[], bool], *arguments: str, cwd: Path, patience_s: float = 120.0) -> None:
    """Start a command and kill -9 it as soon as `happened()`."""
    process = start_command(*arguments, cwd=cwd)
    end_s = time.monotonic() + patience_s
    while not happened():
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < end_s, "what was waited for did not happen"
        time.sleep(0.002)
    process.kill()
    process.join()


def _command(
    arguments: tuple[str, ...], cwd: Path, out: Path | None, err: Path | None, environment: dict[str, str]
) -> None:
    os.environ |= environment
    os.chdir(cwd)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = ["ofa-kit", *arguments]
    main()
