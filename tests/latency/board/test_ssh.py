import os
import sys
from pathlib import Path

import pytest

from ofa_kit.arch.features import distinct_layers
from ofa_kit.commands.board import profile_ssh
from ofa_kit.errors import BackendError, OfaKitError
from ofa_kit.latency.board.ssh import profile_over_ssh
from tests.latency.board.kits import DEVICE, SPACE

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
