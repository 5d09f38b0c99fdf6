"""The command line in this process, refused."""

import re
import sys

import pytest

from ofa_kit.cli.main import main


def refused(capsys, monkeypatch, *arguments, says):
    """Run a command that must end with exit code 2 and one line of error that holds the pattern."""
    monkeypatch.setattr(sys, "argv", ["ofa-kit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2, lines
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    assert re.search(says, lines[-1]), lines[-1]
