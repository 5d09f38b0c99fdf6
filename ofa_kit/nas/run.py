"""The folder of one piece of work of a searcher: config.yaml with recipe and data, checkpoints/, logs, results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import yaml

from ofa_kit import storage
from ofa_kit.config import parse, plain, read_yaml
from ofa_kit.data.dataset import Dataset, DatasetInfo
from ofa_kit.errors import RunError

CONFIG = "config.yaml"


class AnyRecipe(Protocol):
    """A frozen dataclass of settings that names its data."""

    @property
    def data(self) -> str: ...


R = TypeVar("R", bound=AnyRecipe)
Parse = Callable[[Mapping[str, Any], str], R]
"""Reads and checks a recipe's values; the second argument says where they come from."""


@dataclass(frozen=True)
class WorkFolder(Generic[R]):
    """A folder with its settings read."""

    folder: Path
    recipe: R
    info: DatasetInfo

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.safetensors"

    @classmethod
    def prepared(
        cls,
        values: Mapping[str, Any],
        folder: Path,
        read: Parse[R],
        open_data: Callable[[R], Dataset],
        *,
        source: str,
        resume: bool,
        command: str,
    ) -> "tuple[WorkFolder[R], Dataset]":
        """Begin in a folder or, with `resume`, open it; a RunError where the one asked for does not fit."""
        if resume:
            return cls._begun(values, folder, read, open_data, source, command)
        if (folder / CONFIG).exists():
            raise RunError(f"'{folder}' exists; go on with --resume, or choose another --run NAME")
        recipe = read(values, source)
        dataset = open_data(recipe)
        work = cls(folder, recipe, dataset.info)
        facts = {"command": command, "recipe": plain(recipe), "dataset": plain(dataset.info)}
        storage.write_text(folder / CONFIG, yaml.safe_dump(facts, sort_keys=False))
        return work, dataset

    @classmethod
    def _begun(
        cls,
        values: Mapping[str, Any],
        folder: Path,
        read: Parse[R],
        open_data: Callable[[R], Dataset],
        source: str,
        command: str,
    ) -> "tuple[WorkFolder[R], Dataset]":
        """Open a folder to go on in: its own recipe counts, and what is given must not contradict it."""
        path = folder / CONFIG
        if not path.exists():
            raise RunError(f"nothing to resume in '{folder}'; leave out --resume to begin")
        found = read_yaml(path)
        if found.get("command") != command:
            raise RunError(
                f"'{folder}' holds {found.get('command') or 'a supernet'}, not {command}; choose another --run"
            )
        begun = read(found.get("recipe") or {}, f"{path}, recipe")
        info = parse(DatasetInfo, found.get("dataset") or {}, f"{path}, dataset")
        given = read({**plain(begun), **values}, source)
        for key in values:
            if key != "data" and getattr(given, key) != getattr(begun, key):
                raise RunError(
                    f"'{folder}' was begun with {key}={getattr(begun, key)}, --resume asks for {getattr(given, key)}; "
                    "leave it out, or start another --run NAME"
                )
        dataset = open_data(given)
        if replace(dataset.info, data=info.data) != info:
            raise RunError(
                f"'{folder}' was begun with other images than '{given.data}' has now; give those, or start another run"
            )
        return cls(folder, given, dataset.info), dataset
