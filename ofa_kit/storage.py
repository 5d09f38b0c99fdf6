"""Files that survive a kill: whole files are replaced atomically, tables grow by one complete line at a time."""

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ofa_kit.errors import OfaKitError, TableError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it becomes `path` in one step."""
    handle, name = tempfile.mkstemp(dir=writable_folder(path.parent), prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace the file's content in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def writable_folder(folder: Path) -> Path:
    """Create the folder where it is missing; an OfaKitError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OfaKitError(
            f"cannot write in folder '{folder}': {error.strerror or error}; choose another folder or mend its rights"
        ) from error
    return folder


def append_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Append complete lines to a CSV file and force them to disk; a torn last line is cut off first."""
    writable_folder(path.parent)
    _cut_torn_line(path)
    is_new = not path.exists() or path.stat().st_size == 0
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    if is_new:
        writer.writeheader()
    writer.writerows(rows)
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the complete lines of a CSV file, [] when there is none; a TableError when its columns are others."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(complete))
    if reader.fieldnames is None:
        return []
    if list(reader.fieldnames) != list(columns):
        raise TableError(
            f"'{path}' has the columns {','.join(reader.fieldnames)}, expected {','.join(columns)}; "
            "move the file away and measure again"
        )
    rows = list(reader)
    damaged = [n for n, row in enumerate(rows, start=2) if None in row.values() or None in row]
    if damaged:
        raise TableError(f"'{path}' line {damaged[0]} is damaged; delete that line and run the command again")
    return rows


def keep_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Replace the CSV file by the given rows in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _cut_torn_line(path: Path) -> None:
    """Remove what a killed process left after the last line feed."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
