"""An architecture as people write it: JSON in the forms that are about, SPOS's numbers, or a file that holds either."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.ofa_format import from_ofa_dict
from ofa_kit.arch.space import SearchSpace
from ofa_kit.arch.spos_format import from_spos_text
from ofa_kit.errors import OfaKitError, TableError

FORMS = (
    "a table row as JSON (deployment.json and `ofa-kit search --json` hold one), MIT's {ks, e, d, r}, or SPOS's numbers"
)


def arch_from_text(space: SearchSpace, text: str) -> ArchConfig:
    """Return the architecture of `space` that a text or the file it names describes, or an OfaKitError why not."""
    text = text.strip()
    if text.endswith(".json"):
        return _parsed(space, _content(Path(text)), f"'{text}'")
    return _parsed(space, text, "--arch")


def _content(path: Path) -> str:
    if not path.is_file():
        raise OfaKitError(f"no file '{path}'; --arch takes {FORMS}, in a file or as it is")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OfaKitError(f"'{path}' is no text; --arch takes {FORMS}") from error


def _parsed(space: SearchSpace, text: str, source: str) -> ArchConfig:
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        return from_spos_text(space, text)
    if isinstance(values, list):
        return from_spos_text(space, " ".join(map(str, values)))
    if not isinstance(values, dict):
        raise OfaKitError(f"{source} holds no architecture; expected {FORMS}")
    return _of_mapping(space, values, source)


def _of_mapping(space: SearchSpace, values: Mapping[str, Any], source: str) -> ArchConfig:
    for name in ("best", "arch"):
        if isinstance(values.get(name), dict):
            return _of_mapping(space, values[name], source)
    try:
        if "kernel_sizes" in values:
            arch = ArchConfig.from_row({key: str(value) for key, value in values.items()})
            space.encode(arch)
            return arch
        return from_ofa_dict(space, values)
    except (ValueError, TypeError, IndexError, KeyError, TableError) as error:
        raise OfaKitError(f"{source} holds no architecture of '{space.name}': {error}; expected {FORMS}") from error
