"""A kit on a board that ssh reaches: copied there, run there, its results brought back. Only Python is asked of it."""

import io
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ofa_kit import storage
from ofa_kit.errors import BackendError
from ofa_kit.latency.board.bundle import key_of_bundle
from ofa_kit.latency.board.runner.results import FACTS, ROWS
from ofa_kit.progress import Reporter, Silent

CONNECT_TIMEOUT_S = 15
UNPACK = """
import os, shutil, sys, tempfile, zipfile
cache = os.path.expanduser("~/.cache")
folder = os.path.join(cache, sys.argv[1])
if os.path.exists(folder):
    print("there")
    sys.exit()
print("send", flush=True)
os.makedirs(cache, exist_ok=True)
part = tempfile.mkdtemp(prefix=sys.argv[1] + ".", dir=cache)
try:
    with tempfile.TemporaryFile(dir=cache) as packed:
        shutil.copyfileobj(sys.stdin.buffer, packed)
        zipfile.ZipFile(packed).extractall(part)
    os.rename(part, folder)
finally:
    shutil.rmtree(part, ignore_errors=True)
"""
"""Runs on the board: unpacks the kit that comes in, all of it or nothing, unless it is there already."""


def profile_over_ssh(
    host: str, bundle: Path, python: str = "python3", *, results: Path, reporter: Reporter | None = None
) -> Path:
    """Run a kit on `host` and return the folder `results` with results.csv and results.json.

    The kit stays on the board: after an interruption the same call goes on there. A BackendError says in one line
    what the board or the way to it lacks.
    """
    if shutil.which("ssh") is None:
        raise BackendError("no `ssh` on PATH; install an OpenSSH client, or carry the kit to the board by hand")
    reporter = reporter or Silent()
    board = _Board(host, python, f"ofa-kit-kit-{key_of_bundle(bundle)}")
    board.send(bundle)
    board.run(reporter)
    found = board.fetch()
    for name, content in found.items():
        storage.write_text(results / name, content)
    return results


class _Board:
    """A host with the kit in a folder under ~/.cache."""

    def __init__(self, host: str, python: str, folder: str) -> None:
        self.host, self.python, self.folder = host, python, folder

    def send(self, bundle: Path) -> None:
        """Copy and unpack the kit, unless it is there."""
        command = f"{shlex.quote(self.python)} -c {shlex.quote(UNPACK)} {self.folder}"
        with self._started(command) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline().strip() == b"send":
                try:
                    with bundle.open("rb") as kit:
                        shutil.copyfileobj(kit, process.stdin)
                except BrokenPipeError:
                    pass  # the other side ended early: what it wrote on stderr says why
            _, errors = process.communicate()
        self._check(process.returncode, errors)

    def run(self, reporter: Reporter) -> None:
        """Run the kit and pass its progress on."""
        last = b""
        with self._started(f"{shlex.quote(self.python)} ~/.cache/{self.folder}/run.py") as process:
            assert process.stderr is not None
            for last in process.stderr:
                reporter.say(f"{self.host}: {last.decode(errors='replace').rstrip()}")
        self._check(process.returncode, last)

    def fetch(self) -> dict[str, str]:
        """Return the content of both result files."""
        with self._started(f"tar -cf - -C ~/.cache/{self.folder}/results {ROWS} {FACTS}") as process:
            content, errors = process.communicate()
        self._check(process.returncode, errors)
        found = {}
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for name in (ROWS, FACTS):
                member = archive.extractfile(name)
                assert member is not None
                found[name] = member.read().decode()
        return found

    @contextmanager
    def _started(self, command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Give the process of a command on the board; it has ended when the block has."""
        options = ["-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
        pipe = subprocess.PIPE
        with subprocess.Popen(["ssh", *options, "--", self.host, command], stdin=pipe, stdout=pipe, stderr=pipe) as one:
            try:
                yield one
            except BaseException:
                one.kill()
                raise

    def _check(self, code: int, errors: bytes) -> None:
        lines = errors.decode(errors="replace").strip().splitlines()
        said = lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
        if code == 255:
            raise BackendError(
                f"no connection to '{self.host}': {said}; see that `ssh {self.host}` logs in and run the command again"
            )
        if code in (126, 127):
            raise BackendError(
                f"'{self.host}' cannot run '{self.python}' ({said}); install Python 3.8 or newer, numpy and "
                "onnxruntime there or name its Python"
            )
        if code:
            raise BackendError(f"'{self.host}': {said}")
