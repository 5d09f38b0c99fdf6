"""Kill training, profiling and accuracy measurement at random moments, resume, and compare with undisturbed work.

    python tools/kill_check.py --times 5

Training must end with bit-equal weights; tables must keep every row that was complete at the kill, hold no subnet more
often than an undisturbed run may, and end with its keys. Exit code 1 when a law is broken.
"""

import argparse
import csv
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ofa_kit.latency.protocol import EXTRA_SESSIONS
from tools.command_processes import start_command

EPOCHS = 2
TRAIN = ["train-supernet", "--recipe", "digits", "--epochs", str(EPOCHS), "--set", "checkpoint_s=0.5"]
TRAIN += ["--set", "validation_images=50", "--set", "num_random=0", "--set", "eval_every=2"]
TRAIN += ["--set", "calibration_images=250"]
DEVICE = "name: quick\nbackend: onnxruntime\nprotocol: {sessions: 2, rounds_per_block: 3, pause_s: 0.1, warmup_s: 0}\n"
MOST_ROWS = {"profile": 2 + EXTRA_SESSIONS, "accuracy": 1}
"""Rows that one block or subnet may have: its sessions."""
PROFILE = ["profile", "--device", "quick.yaml", "--space", "mbv3-tiny", "--subnets", "8", "--resolutions", "8,12"]
ACCURACY = ["measure-accuracy", "--run", "whole", "--subnets", "8"]
TABLES = {
    "profile": lambda folder: folder / "latency_tables" / "quick" / "onnxruntime-fp32-bs1" / "mbv3-tiny.csv",
    "accuracy": lambda folder: folder / "runs" / "whole" / "accuracy.csv",
}


def main() -> int:
    """Run the three checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "quick.yaml").write_text(DEVICE, encoding="utf-8")
        run(["spaces"], folder)  # no later time holds the imports
        results = [*training(folder, arguments.times, draw)]
        for title, command in {"profile": PROFILE, "accuracy": ACCURACY}.items():
            results += table_growth(folder, title, command, arguments.times, draw)
    return 0 if all(results) else 1


def training(folder: Path, times: int, draw: random.Random) -> list[bool]:
    """Kill training; the weights must equal those of a run that was left alone."""
    whole_s = run([*TRAIN, "--run", "whole"], folder)
    whole = (folder / "runs" / "whole" / "supernet.safetensors").read_bytes()
    results = []
    for number in range(times):
        name = f"killed{number}"
        moment_s = draw.uniform(0.3, 0.95) * whole_s
        kill_after(moment_s, [*TRAIN, "--run", name], folder)
        begun = (folder / "runs" / name / "checkpoints" / "last.safetensors").exists()
        run(["train-supernet", "--run", name, "--resume"] if begun else [*TRAIN, "--run", name], folder)
        same = (folder / "runs" / name / "supernet.safetensors").read_bytes() == whole
        rows = [(row["phase"], row["epoch"]) for row in read(folder / "runs" / name / "metrics.csv")]
        good = same and len(rows) == len(set(rows)) == EPOCHS
        results.append(good)
        print(
            f"training {number}: killed at {moment_s:.1f} of {whole_s:.1f} s, checkpoint there: {begun}, weights "
            f"bit-equal: {same}, metrics rows: {len(rows)} of {EPOCHS}: {verdict(good)}",
            flush=True,
        )
    return results


def table_growth(folder: Path, title: str, command: list[str], times: int, draw: random.Random) -> list[bool]:
    """Kill a measurement; complete rows must stay, none may be doubled, and all must be there in the end."""
    whole_s = run(command, folder)
    path = TABLES[title](folder)
    keys = {row["key"] for row in read(path)}
    results = []
    for number in range(times):
        remove(path)
        moment_s = draw.uniform(0.3, 0.95) * whole_s
        kill_after(moment_s, command, folder)
        kept = read(path)
        run(command, folder)
        final = read(path)
        found = {row["key"] for row in final}
        counts = Counter(row["key"] for row in final)
        good = final[: len(kept)] == kept and max(counts.values()) <= MOST_ROWS[title] and found == keys
        results.append(good)
        print(
            f"{title} {number}: killed at {moment_s:.1f} of {whole_s:.1f} s with {len(kept)} rows of {len(keys)} keys; "
            f"resumed: {len(final)} rows of {len(found)} keys, first {len(kept)} unchanged: {verdict(good)}",
            flush=True,
        )
    return results


def run(arguments: list[str], folder: Path) -> float:
    """Run a command to its end and return how long it took."""
    start_s = time.monotonic()
    process = start_command(*arguments, cwd=folder, err=folder / "err.txt")
    process.join()
    if process.exitcode:
        sys.exit(f"{' '.join(arguments)}: exit code {process.exitcode}\n{(folder / 'err.txt').read_text()}")
    return time.monotonic() - start_s


def kill_after(seconds: float, arguments: list[str], folder: Path) -> None:
    """Start a command and kill -9 it."""
    process = start_command(*arguments, cwd=folder)
    process.join(seconds)
    process.kill()
    process.join()


def read(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a CSV file."""
    if not path.exists():
        return []
    text = path.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def remove(path: Path) -> None:
    """Remove a table and its JSON."""
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)


def verdict(good: bool) -> str:
    """Return the word that ends a line."""
    return "ok" if good else "BROKEN"


if __name__ == "__main__":
    sys.exit(main())
