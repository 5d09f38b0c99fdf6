"""Does the controller of NAS-RL learn? Rewards of children in order, beside a controller that never learns.

    python tools/bench/nas_rl.py --children 180 --processes 2 --seeds 1

For each seed the recipe is run as it is and with a learning rate of nearly 0, whose children are random. Printed, and
written to RUNS/summary.md and RUNS/summary.json: the mean reward of each tenth of the children, in order; the best
child against the mean of the first ten; the best network trained again, on test images. Goes on after a kill.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from ofa_kit.cli.values import read_values
from ofa_kit.commands.search_nas_rl import Training, search_nas_rl
from ofa_kit.nas.nas_rl.children import Child, Children
from ofa_kit.progress import Terminal
from ofa_kit.storage import write_text

NO_LEARNING = 1e-12
TENTHS = 10


def main() -> None:
    """Read the command line and do what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="nas-rl-digits")
    parser.add_argument("--children", type=int, default=180)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/nas-rl"))
    parser.add_argument("--no-random", action="store_true", help="leave the controller that never learns out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    found = []
    for seed in range(given.seeds):
        for kind in ("learning",) if given.no_random else ("learning", "random"):
            values, _ = read_values(given.recipe, {"children": given.children, "seed": seed}, given.set)
            if kind == "random":
                values["controller_lr"] = NO_LEARNING
            found.append(searched(values, given.runs / f"{kind}-{seed}", kind, given.processes))
            write_text(given.runs / "summary.json", json.dumps(found, indent=2) + "\n")
            write_text(given.runs / "summary.md", table(found) + "\n")
    print(table(found))


def searched(values: dict[str, Any], folder: Path, kind: str, processes: int) -> dict[str, Any]:
    """Run a search to its end and return what came of it."""
    resume = (folder / "config.yaml").exists()
    how = Training(processes=processes)
    facts = search_nas_rl(values, folder, resume=resume, how=how, reporter=Terminal(60)).facts()
    children = Children(folder / "children.csv")
    ordered = [children.all[number] for number in sorted(children.all)]
    return {
        "kind": kind,
        "seed": values["seed"],
        "children": len(ordered),
        "failed": facts["failed"],
        "tenths": tenths(ordered),
        "first_ten_mean": mean(child.reward for child in ordered[:10]),
        "best_reward": facts["reward"],
        "best_child": facts["child"],
        "best_child_top1": facts["child_top1"],
        "network": facts["network"],
        "test_top1": facts["test_top1"],
        "child_seconds": sum(child.seconds for child in ordered),
    }


def tenths(children: list[Child]) -> list[float]:
    """Return the mean reward of each tenth, in order."""
    cuts = [len(children) * part // TENTHS for part in range(TENTHS + 1)]
    return [mean(child.reward for child in children[start:end]) for start, end in pairwise(cuts)]


def table(found: list[dict[str, Any]]) -> str:
    """Return markdown of all searches."""
    lines = [
        "| controller | seed | mean reward of each tenth of the children | first 10 | best (child) | its top-1 % | "
        "test top-1 %, trained again | s for all children |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        curve = " ".join(f"{value:.2f}" for value in each["tenths"])
        lines.append(
            f"| {each['kind']} | {each['seed']} | {curve} | {each['first_ten_mean']:.3f} | {each['best_reward']:.3f} "
            f"({each['best_child']}) | {each['best_child_top1']:.2f} | {each['test_top1']:.2f} | "
            f"{each['child_seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
