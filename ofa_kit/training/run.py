"""Run: the folder of one supernet: config.yaml, checkpoints/, metrics.csv, supernet.safetensors, accuracy.csv."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from ofa_kit import storage
from ofa_kit.arch.presets import PRESETS
from ofa_kit.arch.space import SearchSpace
from ofa_kit.arch.space_file import SPACE_FILE, find_space, write_space
from ofa_kit.config import parse, plain, read_yaml
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.errors import RunError
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training import checkpoint
from ofa_kit.training.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """A run folder with its settings read."""

    folder: Path
    recipe: Recipe
    info: DatasetInfo

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def space(self) -> SearchSpace:
        """The recipe's space, adapted to the data's channels and classes."""
        space = find_space(self.recipe.space)
        return space.adapted(in_channels=self.info.in_channels, num_classes=self.info.num_classes)

    @property
    def weights(self) -> Path:
        return self.folder / "supernet.safetensors"

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.safetensors"

    @property
    def teacher(self) -> Path:
        return self.folder / "checkpoints" / "teacher.safetensors"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def accuracy(self) -> Path:
        return self.folder / "accuracy.csv"

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, info: DatasetInfo) -> "Run":
        """Start a run folder; a RunError when one with training in it is there."""
        cls.refuse_begun(folder)
        if recipe.space not in PRESETS:  # the folder keeps what is not shipped
            write_space(folder / SPACE_FILE, find_space(recipe.space))
            recipe = dataclasses.replace(recipe, space=str(folder / SPACE_FILE))
        run = cls(folder, recipe, info)
        run.save_config()
        return run

    @staticmethod
    def refuse_begun(folder: Path) -> None:
        """Raise a RunError when training has begun in the folder."""
        if any((folder / name).exists() for name in ("checkpoints/last.safetensors", "supernet.safetensors")):
            raise RunError(f"run '{folder}' exists; go on with --resume, or choose another --run NAME")

    def save_config(self) -> None:
        """Write config.yaml."""
        values = {"recipe": plain(self.recipe), "dataset": plain(self.info)}
        storage.write_text(self.folder / "config.yaml", yaml.safe_dump(values, sort_keys=False))

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run folder; a RunError when it is none."""
        path = folder / "config.yaml"
        if not path.exists():
            known = sorted(p.parent.name for p in folder.parent.glob("*/config.yaml"))
            raise RunError(
                f"no run '{folder}'; "
                + (f"found: {', '.join(known)}" if known else "train one with `ofa-kit train-supernet --run NAME`")
            )
        values = read_yaml(path)
        info = parse(DatasetInfo, values.get("dataset") or {}, f"{path}, dataset")
        recipe = dict(values.get("recipe") or {})
        if (folder / SPACE_FILE).exists():
            recipe["space"] = str(folder / SPACE_FILE)  # where it lies now
        return cls(folder, Recipe.parse(recipe, f"{path}, recipe"), info)

    @classmethod
    def find_newest(cls, root: Path) -> "Run":
        """Open the run in `root` whose weights are the newest."""
        weights = [path for path in root.glob("*/supernet.safetensors") if (path.parent / "config.yaml").exists()]
        trained = sorted(weights, key=lambda path: path.stat().st_mtime)
        if not trained:
            raise RunError(f"no trained run in '{root}'; train one with `ofa-kit train-supernet` or give --run FOLDER")
        return cls.open(trained[-1].parent)

    def load_supernet(self) -> tuple[Supernet, str]:
        """Return the trained supernet in evaluation mode and the hash of its weights."""
        if not self.weights.exists():
            raise RunError(
                f"run '{self.folder}' has no trained weights yet; finish it with "
                f"`ofa-kit train-supernet --run {self.folder} --resume`"
            )
        tensors, facts = checkpoint.load(self.weights)
        if facts.get("space_fingerprint") != self.space.fingerprint:
            raise RunError(f"'{self.weights}' holds the space {facts.get('space')}, config.yaml says {self.space.name}")
        supernet = Supernet(self.space)
        try:
            supernet.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(
                f"'{self.weights}' does not hold this space's tensors: {' '.join(str(error).split())}"
            ) from error
        return supernet.eval(), checkpoint.weights_hash(tensors)

    def save_supernet(self, state: dict[str, torch.Tensor]) -> None:
        """Write the trained weights with the space and their hash in the header."""
        facts = {
            "space": self.space.name,
            "space_fingerprint": self.space.fingerprint,
            "weights_hash": checkpoint.weights_hash(state),
        }
        checkpoint.save(self.weights, state, facts)
