"""The kit on the board: its manifest, and whether every file is as it was made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"


class RunnerError(Exception):
    """What keeps the runner from measuring: one line that says what to do now."""


@dataclass(frozen=True)
class Kit:
    """A folder of graphs, and the manifest that says what they are."""

    folder: Path
    key: str
    """12 hex digits of everything in the kit."""
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Kit:
        """Read the kit in `folder`; a RunnerError names the first file that is missing or damaged."""
        try:
            content = (folder / MANIFEST).read_bytes()
            kit = cls(folder, key_of(content), json.loads(content.decode("utf-8")))
            found, sums = kit.manifest["format"], kit.checksums()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunnerError(f"'{folder / MANIFEST}' is missing or damaged; unpack the kit again") from error
        if found != FORMAT:
            raise RunnerError(
                f"the kit has format {found}, its runner reads {FORMAT}; unpack the kit into a new folder"
            )
        for name, expected in sums.items():
            if _sha256(folder / name) != expected:
                raise RunnerError(f"'{folder / name}' is missing or damaged (its sha256 differs); unpack the kit again")
        return kit

    def graphs(self, kind: str) -> list[dict[str, Any]]:
        """Return the manifest's entries of a kind: reference, blocks or subnet."""
        return [graph for graph in self.manifest["graphs"] if graph["kind"] == kind]

    def checksums(self) -> dict[str, str]:
        """Return the sha256 of every file by its name in the kit."""
        sums = dict(self.manifest["files"])
        sums.update((graph["file"], graph["sha256"]) for graph in self.manifest["graphs"])
        return sums


def key_of(manifest: bytes) -> str:
    """Return the 12 hex digits that name a kit: its manifest has the checksums of all else."""
    return hashlib.sha256(manifest).hexdigest()[:12]


def _sha256(path: Path) -> str | None:
    """Return the hex digest of a file's content, None when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
    except OSError:
        return None
    return digest.hexdigest()
