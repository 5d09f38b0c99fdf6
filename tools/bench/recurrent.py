"""Search recurrent cells by DARTS, train them from scratch, and set them beside an LSTM of the same size and others.

    python tools/bench/recurrent.py --data text:PATH --minutes 60
    python tools/bench/recurrent.py --data text:PATH --seeds 3 --orders first second --cells darts-v2 enas random

Each order is searched, and each cell trained, once a seed, and once a seed the LSTM of each size, trained alike. A run
folder that is finished is read, one that was stopped goes on, so the script can be called again; it begins no further
run after --minutes. Prints one row a contender: mean and sample standard deviation over the seeds.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ofa_kit.commands.search_recurrent import RESULT, search_recurrent
from ofa_kit.nas.recurrent.genotype import FUNCTIONS, PRESETS, RecurrentGenotype, read_genotype
from ofa_kit.nas.recurrent.recipe import SearchRecipe, nested, read_recipe
from ofa_kit.nas.recurrent.run import CONFIG
from ofa_kit.progress import Terminal
from ofa_kit.training.recipe import with_settings

RANDOM = "random"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="text:PATH, or shakespeare")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="recipe key: search.epochs=3")
    parser.add_argument("--orders", nargs="*", default=["first"], choices=["first", "second", "exact"])
    parser.add_argument("--cells", nargs="*", default=["darts-v2", RANDOM], choices=[*PRESETS, RANDOM])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/recurrent"))
    arguments = parser.parse_args()
    values, source = read_recipe(arguments.recipe)
    values = nested(values, {"data": arguments.data, **with_settings({}, arguments.settings)})
    end_s = time.monotonic() + 60 * arguments.minutes
    for seed, name in contenders(arguments):
        if time.monotonic() >= end_s:
            print(f"no time left for {name}, seed {seed}; call again to go on")
            break
        run(arguments.runs, seed, name, values, source)
    print(table(arguments))


def contenders(arguments: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Yield seed by seed what is trained: orders of the search and given cells."""
    for seed in range(arguments.seeds):
        for order in arguments.orders:
            yield seed, f"searched-{order}"
        for cell in arguments.cells:
            yield seed, cell


def run(runs: Path, seed: int, name: str, values: dict[str, Any], source: str) -> None:
    """Run one contender to its end, from where it stands; the LSTM of its size once a seed."""
    folder = runs / f"{name}-seed{seed}"
    if (folder / RESULT).exists():
        return
    values = {**values, "seed": seed}
    genotype = None
    if name.startswith("searched-"):
        values = nested(values, {"search.order": name.removeprefix("searched-")})
    else:
        genotype = random_cell(values) if name == RANDOM else PRESETS[name]
    nodes = len(genotype.nodes) if genotype else searched_nodes(values)
    others = [result for path, result in results(runs, seed) if path != folder and len(cell_of(result).nodes) == nodes]
    lstm = not any("lstm" in result["models"] for result in others)
    resume = (folder / CONFIG).exists()
    search_recurrent(values, folder, source=source, resume=resume, genotype=genotype, lstm=lstm, reporter=Terminal(60))


def results(runs: Path, seed: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the finished runs of a seed: folder and result."""
    for path in sorted(runs.glob(f"*-seed{seed}/{RESULT}")):
        yield path.parent, json.loads(path.read_text(encoding="utf-8"))


def cell_of(result: dict[str, Any]) -> RecurrentGenotype:
    """Return the cell of a result."""
    return read_genotype(result["genotype"])


def searched_nodes(values: dict[str, Any]) -> int:
    """Return the nodes that are searched."""
    return int(values.get("search", {}).get("nodes", SearchRecipe().nodes))


def random_cell(values: dict[str, Any]) -> RecurrentGenotype:
    """Return a uniformly drawn cell of as many nodes as are searched: what a search has to beat."""
    rng = np.random.default_rng([values["seed"], 1])
    count = searched_nodes(values)
    return RecurrentGenotype.of_all(
        (str(rng.choice(FUNCTIONS)), int(rng.integers(node))) for node in range(1, count + 1)
    )


def table(arguments: argparse.Namespace) -> str:
    """Return a Markdown table of measured perplexities."""
    lines = [
        "| cell | seeds | weights | validation perplexity | test perplexity | LSTM of its size, test | "
        "cell : LSTM, test | minutes to train |",
        "|---" * 8 + "|",
    ]
    lstms = {
        (seed, len(cell_of(result).nodes)): result["models"]["lstm"]
        for seed in range(arguments.seeds)
        for _, result in results(arguments.runs, seed)
        if "lstm" in result["models"]
    }
    for name in dict.fromkeys(name for _, name in contenders(arguments)):
        paths = {seed: arguments.runs / f"{name}-seed{seed}" / RESULT for seed in range(arguments.seeds)}
        found = {seed: json.loads(path.read_text(encoding="utf-8")) for seed, path in paths.items() if path.exists()}
        if not found:
            continue
        cells = [result["models"]["cell"] for result in found.values()]
        beside = [lstms[seed, len(cell_of(result).nodes)] for seed, result in found.items()]
        ratios = [c["test_perplexity"] / r["test_perplexity"] for c, r in zip(cells, beside, strict=True)]
        cost = np.mean([model["elapsed_s"] for model in cells]) / 60
        lines.append(
            f"| {name} | {len(found)} | {cells[0]['params']:,} | {spread(cells, 'validation_perplexity')} | "
            f"{spread(cells, 'test_perplexity')} | {spread(beside, 'test_perplexity')} | {np.mean(ratios):.3f} | "
            f"{cost:.1f} |"
        )
        lines += [f"<!-- {result['genotype']} -->" for result in found.values()]
    return "\n".join(lines)


def spread(models: list[dict[str, float]], key: str) -> str:
    """Return mean and sample standard deviation."""
    values = [model[key] for model in models]
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


if __name__ == "__main__":
    main()
