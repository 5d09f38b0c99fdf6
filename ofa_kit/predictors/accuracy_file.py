"""Accuracy predictors as files: one .npz of plain arrays and a line of JSON, no pickle.

All that predicting takes is in the file, the features' groups and their weights included: a later version that learns
otherwise still predicts the same from it.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ofa_kit import storage
from ofa_kit.arch.features import accuracy_features
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import StaleTableError, TableError
from ofa_kit.predictors.accuracy_process import Process
from ofa_kit.predictors.accuracy_stack import Stack

FORMAT, VERSION = "ofa-kit accuracy predictor", 1
DAMAGE = (
    OSError, EOFError, ValueError, LookupError, TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile, NumPy and json raise for bytes that are not what was written."""
OWN = tuple(field.name for field in fields(Process) if field.name != "known")
"""What each process has for itself; the measured subnets are the same for all."""


def write(path: Path, space: SearchSpace, genomes: Genomes, stack: Stack, held_out: Mapping[str, float]) -> None:
    """Write a predictor in one step."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "space": space.name,
        "fingerprint": space.fingerprint,
        "held_out": dict(held_out),
        "processes": len(stack.processes),
    }
    arrays: dict[str, Any] = {"header": np.array(json.dumps(header)), "genomes": genomes}
    arrays |= {"weights": stack.weights, "quantile": np.array(stack.quantile)}
    for number, process in enumerate(stack.processes):
        arrays |= {f"{name}_{number}": np.asarray(getattr(process, name)) for name in OWN}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    with storage.replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def read(path: Path, space: SearchSpace) -> tuple[Genomes, Stack, dict[str, float]]:
    """Return the measured genomes, the stack and its scores; a TableError says what is wrong with the file."""
    if not path.exists():
        raise TableError(f"there is no accuracy predictor '{path}'; fit one and save it first")
    try:
        with zipfile.ZipFile(path) as archive:
            if torn := archive.testzip():
                raise ValueError(f"the check sum of '{torn}' differs")
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            _check(path, header, space)
            return _content(file, header, space)
    except DAMAGE as error:
        raise TableError(f"'{path}' is no accuracy predictor, or damaged ({error}); fit and save it again") from error


def _check(path: Path, header: Mapping[str, Any], space: SearchSpace) -> None:
    if header["format"] != FORMAT:
        raise ValueError(f"its format is '{header['format']}'")
    if header["version"] > VERSION:
        raise TableError(
            f"'{path}' was saved in version {header['version']} of the format, this ofa-kit reads up to {VERSION}; "
            "update ofa-kit or fit the predictor again"
        )
    if header["fingerprint"] != space.fingerprint:
        raise StaleTableError(
            f"'{path}' predicts for space '{header['space']}' ({header['fingerprint']}), asked for '{space.name}' "
            f"({space.fingerprint}); load it with its own space or fit another"
        )


def _content(file: Mapping[str, Any], header: Mapping[str, Any], space: SearchSpace) -> tuple[Genomes, Stack, Any]:
    genomes = file["genomes"]
    features = accuracy_features(space, genomes)
    processes = []
    for number in range(header["processes"]):
        found = {name: file[f"{name}_{number}"] for name in OWN}
        own: dict[str, Any] = {name: value if value.ndim else float(value) for name, value in found.items()}
        processes.append(Process(known=features, **own))
    return genomes, Stack(tuple(processes), file["weights"], float(file["quantile"])), header["held_out"]
