"""Compare all searchers on the same images, device, latency budget and minutes of one core.

    python tools/bench/searchers.py PATH --minutes 10 --latency-ms 0.4 --seeds 2

PATH is a folder with train/ and test/ folders of classes, as for imagefolder:PATH; --images of its training images are
used by all. Each method is the commands that a user would type (searchers_methods.py), in RUNS/METHOD-SEED, sized to
keep a core busy for about --minutes with all of them: supernets, latency tables, searches, training of what was found.
What each really took is measured (processor time of its processes, in core-minutes). At the end all exported models are
timed side by side, and top-1 is that of all test images in ONNX Runtime. A command that is finished is not repeated;
one that was interrupted begins anew, but keeps what it had measured. --table prints what is finished.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from searchers_methods import METHODS, Wanted

from ofa_kit.commands.cells_found import open_times
from ofa_kit.progress import Terminal
from ofa_kit.storage import write_text

COMMANDS, RESULT = "commands", "result.json"


def main() -> None:
    """Run what is left and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=12000, help="training images, those held out included")
    parser.add_argument("--device", default="cpu-ort")
    parser.add_argument("--latency-ms", type=float, default=0.4)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--runs", type=Path, default=Path("runs/searchers"))
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    if not given.table:
        data = part_of(given.data, given.images, given.runs / "data")
        for seed in seeds:
            for method in given.methods:
                wanted = Wanted(f"imagefolder:{data}", given.device, given.latency_ms, given.minutes, seed)
                run(method, wanted, given.runs / f"{method}-{seed}")
    print(table(given.runs, given.device, given.latency_ms))


def part_of(data: Path, images: int, folder: Path) -> Path:
    """Return a folder with links to the first training images of each class and to all test images."""
    if not folder.exists():
        classes = sorted(path.name for path in (data / "train").iterdir() if path.is_dir())
        half = folder.with_name(folder.name + ".part")
        shutil.rmtree(half, ignore_errors=True)
        for name in classes:
            (half / "train" / name).mkdir(parents=True)
            for path in sorted((data / "train" / name).iterdir())[: images // len(classes)]:
                (half / "train" / name / path.name).symlink_to(path.resolve())
        (half / "test").symlink_to((data / "test").resolve())
        half.rename(folder)
    return folder.resolve()


def run(method: str, wanted: Wanted, folder: Path) -> None:
    """Run the commands of a method to their end, and write down what came of them."""
    if (folder / RESULT).exists():
        return
    shell = Shell(folder)
    found = METHODS[method](wanted, shell)
    facts = {
        "method": method,
        "seed": wanted.seed,
        "test_top1": found.test_top1,
        "model": str(folder / found.model),
        "params": found.params,
        "seconds": shell.seconds,
    }
    write_text(folder / RESULT, json.dumps(facts, indent=2) + "\n")
    print(f"{method}, seed {wanted.seed}: {found.test_top1:.2f} %, {sum(shell.seconds.values()) / 60:.1f} core-minutes")


@dataclass
class Shell:
    """Runs ofa-kit's commands in a folder, each once; `seconds` of a core that each took, by name."""

    folder: Path

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, *words: object, makes: str = "") -> dict[str, Any]:
        """Return what a command prints as JSON; `makes` is the folder that an interrupted one leaves half-made."""
        path = self.folder / COMMANDS / f"{name}.json"
        if not path.exists():
            if makes:
                shutil.rmtree(self.folder / makes, ignore_errors=True)
            argv = [str(word) for word in words]
            print(f"{self.folder.name}: ofa-kit {' '.join(argv)}", flush=True)
            before_s = seconds_of_children()
            path.parent.mkdir(parents=True, exist_ok=True)
            log = path.with_suffix(".log").open("w", encoding="utf-8")
            done = subprocess.run(
                [sys.executable, "-m", "ofa_kit", *argv, "--json"],
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{self.folder.name}: '{name}' ended with {done.returncode}; see {path.with_suffix('.log')}")
            facts = {"argv": argv, "seconds": seconds_of_children() - before_s, "output": json.loads(done.stdout)}
            write_text(path, json.dumps(facts, indent=2) + "\n")
        facts = json.loads(path.read_text(encoding="utf-8"))
        self.seconds[name] = facts["seconds"]
        found: dict[str, Any] = facts["output"]
        return found


def seconds_of_children() -> float:
    """Return the processor time of all processes that this one started and that ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(runs: Path, device: str, latency_ms: float) -> str:
    """Return markdown of all finished runs, their models timed side by side."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(runs.glob(f"*/{RESULT}"))]
    times = open_times(runs, device)
    names = {f"{each['method']}-{each['seed']}": Path(each["model"]) for each in found}
    times.measure({name: path.read_bytes for name, path in names.items()}, Terminal(60))
    lines = [
        f"| method | seed | test top-1 %, measured | latency ms, measured (budget {latency_ms}) | parameters | "
        "core-minutes | of these |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        rows = [each for each in found if each["method"] == method]
        for each in rows:
            measured_ms = times.of(f"{method}-{each['seed']}").latency_ms
            parts = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in each["seconds"].items())
            over = " (over)" if measured_ms > latency_ms else ""
            lines.append(
                f"| {method} | {each['seed']} | {each['test_top1']:.2f} | {measured_ms:.3f}{over} | "
                f"{each['params']:,} | {sum(each['seconds'].values()) / 60:.1f} | {parts} |"
            )
        if len(rows) > 1:
            top1 = [each["test_top1"] for each in rows]
            lines.append(
                f"| **{method}** | n = {len(rows)} | {mean(top1):.2f} ({min(top1):.2f}..{max(top1):.2f}) |||||"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
