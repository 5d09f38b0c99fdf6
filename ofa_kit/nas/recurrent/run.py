"""RecurrentRun: the folder of one search: config.yaml, search/, one folder a trained model, and what came out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
import yaml

from ofa_kit import storage
from ofa_kit.config import parse, plain, read_yaml
from ofa_kit.data.text import Text, TextInfo, open_text
from ofa_kit.errors import RunError
from ofa_kit.nas.recurrent.recipe import TextRecipe

CONFIG = "config.yaml"


R = TypeVar("R", bound=TextRecipe)


@dataclass(frozen=True)
class RecurrentRun(Generic[R]):
    """A run folder with its recipe read and its text open."""

    folder: Path
    recipe: R
    text: Text

    @classmethod
    def create(cls, folder: Path, recipe: R) -> "RecurrentRun[R]":
        """Start a folder; a RunError when one is there."""
        if (folder / CONFIG).exists():
            raise RunError(f"run '{folder}' exists; go on with --resume, or choose another --run NAME")
        text = _open(recipe)
        values = {"command": recipe.command, "recipe": plain(recipe), "text": plain(text.info)}
        storage.write_text(folder / CONFIG, yaml.safe_dump(values, sort_keys=False))
        return cls(folder, recipe, text)

    @classmethod
    def open(cls, folder: Path, kind: type[R]) -> "RecurrentRun[R]":
        """Read a folder with this kind of recipe; a RunError when it is none, or when its text is another by now."""
        path = folder / CONFIG
        if not path.exists():
            raise RunError(f"no run '{folder}' to go on with; leave out --resume")
        values = read_yaml(path)
        command = values.get("command", TextRecipe.command)
        if command != kind.command:
            raise RunError(f"'{folder}' holds {command}, not {kind.command}; choose another --run")
        recipe = kind.parse(values.get("recipe") or {}, f"{path}, recipe")
        begun = parse(TextInfo, values.get("text") or {}, f"{path}, text")
        text = _open(recipe)
        if text.info != begun:
            raise RunError(
                f"run '{folder}' was begun with another text than '{recipe.data}' holds now; bring that back, or start "
                "another --run NAME"
            )
        return cls(folder, recipe, text)

    @property
    def device(self) -> torch.device:
        """Return where the run computes; a RunError when that is not there."""
        asked = self.recipe.accelerator
        if asked == "cuda" and not torch.cuda.is_available():
            raise RunError("accelerator cuda was asked for and PyTorch finds no GPU; use --set accelerator=cpu")
        return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")

    def part(self, name: str) -> Path:
        """Return the folder of a part of the work."""
        return self.folder / name


def _open(recipe: TextRecipe) -> Text:
    return open_text(recipe.data, level=recipe.level, most_words=recipe.most_words)
