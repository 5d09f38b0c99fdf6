"""Whether a deployment folder works for somebody without this package, and says what PyTorch says.

    python tools/bench/predict_elsewhere.py FOLDER --run RUN --images PATH/test

Makes a virtual environment with onnxruntime and pillow alone (numpy comes along), copies the folder away from here and
runs its predict.py there on images spread over PATH, then compares classes and logits with PyTorch, which reads
model.safetensors and prepares images as in training. Ends with exit code 1 where an fp32 model gives another class.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import copytree

import numpy as np
import torch
from numpy.typing import NDArray

from ofa_kit.cli.show import open_run
from ofa_kit.data.batches import evaluation_batches
from ofa_kit.data.dataset import DatasetInfo, FileImages
from ofa_kit.supernet.supernet import resize
from ofa_kit.training.subnet_file import load_subnet

PACKAGES = ("onnxruntime", "pillow")
LOGITS = """
import json, sys
from pathlib import Path
from predict import Classifier
classifier = Classifier()
json.dump([classifier.logits(Path(path)).tolist() for path in sys.argv[1:]], sys.stdout)
"""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a deployment folder")
    parser.add_argument("--run", required=True, help="the run that it was exported from")
    parser.add_argument("--images", type=Path, required=True, help="image files, in folders or not")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--venv", type=Path, help="made where it is missing, and kept; default: made anew, and removed")
    arguments = parser.parse_args()
    every = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(every) < arguments.count:
        sys.exit(f"'{arguments.images}' holds {len(every)} images, {arguments.count} are needed: lower --count")
    chosen = np.linspace(0, len(every) - 1, arguments.count).round().astype(int)
    paths = [every[index].resolve() for index in chosen]
    with tempfile.TemporaryDirectory() as temporary:
        python = made_venv(arguments.venv or Path(temporary) / "venv")
        copytree(arguments.folder, Path(temporary) / "deployment")
        sys.exit(judge(Path(temporary) / "deployment", python, paths, open_run(arguments.run).info))


def made_venv(folder: Path) -> Path:
    """Return the interpreter of a virtual environment with the two packages."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True
        )
    return python


def judge(folder: Path, python: Path, paths: list[Path], info: DatasetInfo) -> int:
    """Print how far predict.py agrees with PyTorch and return the exit code."""
    expected = pytorch_logits(folder / "model.safetensors", paths, info)
    said = elsewhere(folder, python, "predict.py", "--top", "1", *map(str, paths)).splitlines()
    classes = [line.split("%", 1)[1].strip() for line in said[1::2]]
    found = np.array(json.loads(elsewhere(folder, python, "-c", LOGITS, *map(str, paths))))
    same = sum(info.class_names[logits.argmax()] == name for logits, name in zip(expected, classes, strict=True))
    difference = np.abs(found - expected).max()
    packages = elsewhere(
        folder, python, "-m", "pip", "--disable-pip-version-check", "list", "--format", "freeze"
    ).split()
    facts = json.loads((folder / "deployment.json").read_text(encoding="utf-8"))
    inside = facts["preprocessing"]["inside_model"]
    print(f"packages there: {', '.join(packages)}")
    print(
        f"{facts['precision']}, preprocessing in {'the model' if inside else 'predict.py'}: {same} of {len(paths)} "
        f"images have PyTorch's class; largest difference of a logit {difference:.2e} "
        f"({difference / np.abs(expected).max():.2e} of the largest)"
    )
    return int(facts["precision"] == "fp32" and same < len(paths))


def pytorch_logits(weights: Path, paths: list[Path], info: DatasetInfo) -> NDArray[np.float32]:
    """Return logits (N, classes) of images decoded, prepared and classified as in training."""
    subnet = load_subnet(weights)
    source = FileImages(tuple(paths), torch.zeros(len(paths), dtype=torch.int64))
    with torch.no_grad():
        batches = [subnet(resize(images, subnet.arch.resolution)) for images, _ in evaluation_batches(source, info)]
    return torch.cat(batches).numpy()


def elsewhere(folder: Path, python: Path, *arguments: str) -> str:
    """Return what the other interpreter prints in the folder; isolated from this one's packages."""
    done = subprocess.run([str(python), *arguments], cwd=folder, env={}, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
