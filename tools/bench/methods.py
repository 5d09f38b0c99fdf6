"""Compare ways to train a supernet at an equal image budget, and with six of its subnets trained alone.

    python tools/bench/methods.py train sandwich progressive-shrinking single-path alone --data imagefolder:PATH
    python tools/bench/methods.py table --data imagefolder:PATH

Every run sees the same number of training images (epochs x images). `train` resumes what a kill interrupted; `table`
recalibrates each subnet on 2,000 training images and prints top-1 on all test images.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.presets import preset
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.arch.single import only
from ofa_kit.arch.space_file import write_space
from ofa_kit.commands.train_supernet import train_supernet
from ofa_kit.data.sources import open_dataset
from ofa_kit.progress import Terminal
from ofa_kit.storage import read_rows
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.loop import METRICS
from ofa_kit.training.run import Run

SPACE = "mbv3-small-images"
METHODS = ("sandwich", "progressive-shrinking", "single-path")
EPOCHS = 6
COMMON = {"batch_size": 128, "lr": 0.2, "weight_decay": 1e-4, "label_smoothing": 0.1, "eval_every": 3}
OWN = {"sandwich": {"label_share": 0.5, "clip_grad_norm": 4.0}}
"""What a method needs beside the common recipe: in few epochs the largest is a poor teacher on its own, and the sum of
four gradients may diverge for a while at the others' rate."""
OPEN = {"kernel_sizes": 3, "depths": 3}
PHASES = [
    {"name": "largest", "epochs": 2, "lr": 0.2, "warmup_epochs": 1},
    {"name": "kernel", "epochs": 1, "lr": 0.1, "kernel_sizes": 3},
    {"name": "depth", "epochs": 1, "lr": 0.05, **OPEN, "subnets": 2},
    {"name": "expand-1", "epochs": 1, "lr": 0.05, **OPEN, "expand_ratios": 2, "subnets": 4, "sort_channels": True},
    {"name": "expand-2", "epochs": 1, "lr": 0.05, **OPEN, "expand_ratios": 3, "subnets": 4, "sort_channels": True},
]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["train", "table"])
    parser.add_argument("methods", nargs="*", choices=[*METHODS, "alone"], default=[*METHODS, "alone"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.runs / f"seed{arguments.seed}"
    if arguments.task == "train":
        for method in arguments.methods:
            for name, values in recipes(method, folder, arguments.seed):
                train(folder / name, {**COMMON, **values, "data": arguments.data, "seed": arguments.seed})
    else:
        print(table(folder, arguments.data, arguments.methods))


def recipes(method: str, folder: Path, seed: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the runs of a method: name and recipe values."""
    if method == "alone":
        for name, arch in subnets().items():
            path = folder / f"{name}.yaml"
            write_space(path, only(preset(SPACE), arch))
            yield f"alone-{name}", {"space": str(path), "method": "single-path", "epochs": EPOCHS}
    elif method == "progressive-shrinking":
        yield method, {"space": SPACE, "method": method, "epochs": EPOCHS, "phases": PHASES}
    else:
        yield method, {"space": SPACE, "method": method, "epochs": EPOCHS, **OWN.get(method, {})}


def subnets() -> dict[str, ArchConfig]:
    """Return the six subnets: the ends of the space and four between them, by MACs."""
    space = preset(SPACE)
    chosen = sorted(spread_subnets(space, 6), key=lambda arch: macs_of(space, space.encode(arch)[None])[0])
    return dict(zip(("smallest", "middle1", "middle2", "middle3", "middle4", "largest"), chosen, strict=True))


def train(folder: Path, values: dict[str, object]) -> None:
    """Train a run to its end, from where it stands."""
    begun = (folder / "config.yaml").exists()
    train_supernet({} if begun else values, folder, resume=begun, reporter=Terminal(60))


def table(folder: Path, data: str, methods: list[str]) -> str:
    """Return the markdown table of measured test top-1 in percent."""
    dataset = open_dataset(data, photo_size=32)
    evaluator = Evaluator(dataset, calibration=2000)
    lines = ["| trained by | " + " | ".join(subnets()) + " | mean | minutes |", "|---" * 9 + "|"]
    results = {}
    for method in methods:
        runs = {name: Run.open(folder / (f"alone-{name}" if method == "alone" else method)) for name in subnets()}
        values = {}
        for name, arch in subnets().items():
            run = runs[name]
            values[name] = evaluator.test_top1(evaluator.recalibrated(run.load_supernet()[0], arch))
        spent_s = sum(_elapsed_s(run) for run in {run.folder: run for run in runs.values()}.values())
        mean = sum(values.values()) / len(values)
        results[method] = values
        cells = " | ".join(f"{value:.2f}" for value in values.values())
        lines.append(f"| {method} | {cells} | {mean:.2f} | {spent_s / 60:.1f} |")
    (folder / "top1.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return "\n".join(lines)


def _elapsed_s(run: Run) -> float:
    return float(read_rows(run.metrics, METRICS)[-1]["elapsed_s"])


if __name__ == "__main__":
    main()
