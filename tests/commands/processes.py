"""The command line in this process or in one that is killed."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from ofa_kit.cli.main import main

PATIENCE_S = 120.0


def refused(capsys, monkeypatch, *arguments, says):
    """Run a command that must end with exit code 2 and one line of error that holds the pattern."""
    monkeypatch.setattr(sys, "argv", ["ofa-kit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2, lines
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    assert re.search(says, lines[-1]), lines[-1]


def kill_when(happened, *arguments, cwd):
    """Start a command as a process of its own and kill -9 it as soon as `happened()`."""
    command = [sys.executable, "-c", "from ofa_kit.cli.main import main; main()", *arguments]
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy()
    )
    end_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end_s, "what was waited for did not happen"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
