"""Recurrent cells found by DARTS, ENAS and NAS-RL, beside random cells, published ones and an LSTM of equal weights.

    python tools/bench/recurrent.py --data text:PATH --minutes 60
    python tools/bench/recurrent.py --data text:PATH --cells enas nas-rl random-enas random-nas-rl --seeds 2
    python tools/bench/recurrent.py --data text:PATH --cells darts-second paper-darts-v2 --lrs 5 20 --set train.epochs=8

Once a seed each search is run and a random cell of each space drawn; every cell, and an LSTM of as many weights, is
trained from scratch by the same recipe with each of the same learning rates, and the one with the best validation
perplexity counts. Text and training are those of profiles/recipes/recurrent/NAME.yaml, the searches those of this
recipe and of enas-rnn-NAME.yaml and nas-rl-rnn-NAME.yaml. What is finished is read, what was stopped goes on, so the
script can be called again; it begins no further part after --minutes. Prints one row a contender, mean and sample
standard deviation over the seeds, and the cells.
"""

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from recurrent_cells import CELLS, FAMILIES, PUBLISHED, RANDOM, Family, family_of

from ofa_kit import storage
from ofa_kit.commands.search_recurrent import GENOTYPE, RESULT, open_run
from ofa_kit.commands.search_recurrent_models import LOG, TrainedModel, params_of, train_genotype, train_lstm
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.errors import DivergedError
from ofa_kit.nas.recurrent.any_cell import AnyGenotype, FoundCell, read_cell, write_cell
from ofa_kit.nas.recurrent.recipe import TextRecipe, nested, read_recipe
from ofa_kit.nas.recurrent.run import CONFIG, RecurrentRun
from ofa_kit.progress import Terminal
from ofa_kit.training.recipe import with_settings

LSTM = "lstm"


@dataclass(frozen=True)
class Bench:
    """What all parts have in common."""

    recipe: str
    data: str
    settings: Mapping[str, Any]
    lrs: Sequence[float]
    runs: Path

    def training(self, seed: int, family: Family | None = None) -> dict[str, Any]:
        """Return the values of text and training; how a cell's weights start is its family's, all else is alike."""
        values, _ = read_recipe(self.recipe)
        shared = {key: value for key, value in values.items() if key != "search"}
        start = {"train.init_range": family.read(self.recipe)["train"]["init_range"]} if family else {}
        ours = {key: value for key, value in self.settings.items() if key.partition(".")[0] not in FAMILIES}
        return nested(shared, {**start, "data": self.data, **ours, "seed": seed})

    def search(self, family: Family, seed: int) -> dict[str, Any]:
        """Return the values of a search on the same text."""
        section = f"{family.key}."
        ours = {
            f"search.{key.removeprefix(section)}": value
            for key, value in self.settings.items()
            if key.startswith(section)
        }
        text = {key: value for key, value in self.training(seed).items() if key != "train"}
        return nested({**text, "search": family.read(self.recipe)["search"]}, {**family.settings, **ours})

    def folder(self, name: str, seed: int, lr: float) -> Path:
        """Return the folder of one training."""
        return self.runs / f"{name}-seed{seed}" / f"lr{lr:g}"


def main() -> int:
    """Read the command line, do what is left, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="text:PATH, or shakespeare")
    parser.add_argument("--recipe", default="play", help="play, small, ...")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="train.epochs=3, enas.rounds=20")
    parser.add_argument("--cells", nargs="+", default=["enas", "nas-rl", "random-enas", "random-nas-rl"], choices=CELLS)
    parser.add_argument("--lrs", nargs="+", type=float, default=[5.0, 10.0, 20.0], help="of training; the best counts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/recurrent"))
    given = parser.parse_args()
    prepare_torch()
    bench = Bench(given.recipe, given.data, with_settings({}, given.settings), given.lrs, given.runs)
    complete = work(bench, given.cells, given.seeds, time.monotonic() + 60 * given.minutes)
    print(table(bench, given.cells, given.seeds))
    if not complete:
        print("no time was left for the rest; call again to go on", file=sys.stderr)
    return 0 if complete else 1


def work(bench: Bench, cells: Sequence[str], seeds: int, end_s: float) -> bool:
    """Do what is left, seed by seed; False where the time, on the monotonic clock, did not suffice."""
    for seed, name in product(range(seeds), cells):
        if time.monotonic() >= end_s:
            return False
        genotype = genotype_of(bench, name, seed)
        for lr in bench.lrs:
            if time.monotonic() >= end_s:
                return False
            train(bench, name, genotype, seed, lr)
    return True


def genotype_of(bench: Bench, name: str, seed: int) -> AnyGenotype:
    """Return a seed's cell: published, drawn, or searched from where its search stands."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    family = family_of(name)
    values = bench.search(family, seed)
    if name.startswith(RANDOM):
        return family.draw(np.random.default_rng([seed, 1]), family.kind.parse(values, bench.recipe))
    path = bench.runs / f"{name}-seed{seed}" / GENOTYPE
    run = open_run(values, path.parent, family.kind, source=bench.recipe, resume=(path.parent / CONFIG).exists())
    if path.exists():
        return read_cell(path.read_text(encoding="utf-8"))
    found = family.search(run, Terminal(60))
    storage.write_text(path, write_cell(found) + "\n")
    return found


def train(bench: Bench, name: str, genotype: AnyGenotype, seed: int, lr: float) -> None:
    """Train a cell and the LSTM of its size at one learning rate; an LSTM once for all cells of a size."""
    run = opened(bench, bench.folder(name, seed, lr), bench.training(seed, family_of(name)), lr)
    params = params_of(run, genotype)
    finish(run, params, lambda: train_genotype(run, genotype, Terminal(60)))
    lstm = opened(bench, bench.folder(f"{LSTM}-{params}", seed, lr), bench.training(seed), lr)
    finish(lstm, params, lambda: train_lstm(lstm, params, Terminal(60)))


def opened(bench: Bench, folder: Path, values: dict[str, Any], lr: float) -> RecurrentRun[TextRecipe]:
    """Return the run of one training, new or from where it stands."""
    values = nested(values, {"train.lr": lr})
    return open_run(values, folder, TextRecipe, source=bench.recipe, resume=(folder / CONFIG).exists())


def finish(run: RecurrentRun[TextRecipe], params: int, train_model: Callable[[], TrainedModel]) -> None:
    """Train what is not trained yet and keep what it gave; a training that diverges has an infinite perplexity."""
    if result(run.folder) is not None:
        return
    found: dict[str, Any] = {"lr": run.recipe.train.lr, "params": params}
    try:
        model = train_model()
        found |= {**model.values(), "cell": cell_text(model)}
    except DivergedError as error:
        print(f"{run.folder}: {error}", file=sys.stderr)
        found |= {"validation_perplexity": math.inf, "test_perplexity": math.inf, "elapsed_s": math.nan, "cell": ""}
    storage.write_text(run.folder / RESULT, json.dumps(found, indent=2) + "\n")


def result(folder: Path) -> dict[str, Any] | None:
    """Return what a finished training gave."""
    path = folder / RESULT
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def cell_text(model: TrainedModel) -> str:
    """Return the genotype of a model, or that it is an LSTM."""
    cell = model.model.cell
    return write_cell(cell.genotype) if isinstance(cell, FoundCell) else LSTM


def chosen(bench: Bench, name: str, seed: int) -> dict[str, Any] | None:
    """Return the training of the best validation perplexity, once there is one for each learning rate."""
    found = [result(bench.folder(name, seed, lr)) for lr in bench.lrs]
    complete = [each for each in found if each is not None]
    if len(complete) < len(found):
        return None
    return min(complete, key=lambda each: float(each["validation_perplexity"]))


def table(bench: Bench, cells: Sequence[str], seeds: int) -> str:
    """Return a Markdown table of measured perplexities, and the cells."""
    lines = [
        "| cell | seeds | weights | validation perplexity | test perplexity | LSTM of its weights, test | "
        "cell : LSTM, test | learning rates, cell; LSTM | minutes to search | to train |",
        "|---" * 10 + "|",
    ]
    notes = []
    for name in cells:
        pairs = []
        for seed in range(seeds):
            cell = chosen(bench, name, seed)
            lstm = chosen(bench, f"{LSTM}-{cell['params']}", seed) if cell else None
            if cell and lstm:
                pairs.append((cell, lstm))
                notes.append(f"{name}, seed {seed}: {cell['cell']}")
        if pairs:
            lines.append(_row(name, pairs, [minutes_to_search(bench, name, seed) for seed in range(len(pairs))]))
    return "\n".join([*lines, "", *notes])


def minutes_to_search(bench: Bench, name: str, seed: int) -> float:
    """Return how long a seed's search took; 0 for a cell that is not searched."""
    path = bench.runs / f"{name}-seed{seed}" / "search" / LOG
    if not path.exists():
        return 0.0
    with path.open(encoding="utf-8", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["elapsed_s"]) / 60


def _row(name: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], search_minutes: Sequence[float]) -> str:
    cells, lstms = zip(*pairs, strict=True)
    test = "test_perplexity"
    rates = "; ".join(" ".join(f"{model['lr']:g}" for model in models) for models in (cells, lstms))
    row = [
        name,
        str(len(pairs)),
        f"{cells[0]['params']:,}",
        spread([cell["validation_perplexity"] for cell in cells]),
        spread([cell[test] for cell in cells]),
        spread([lstm[test] for lstm in lstms]),
        spread([cell[test] / lstm[test] for cell, lstm in pairs], digits=3),
        rates,
        f"{np.mean(search_minutes):.1f}",
        f"{np.mean([cell['elapsed_s'] for cell in cells]) / 60:.1f}",
    ]
    return f"| {' | '.join(row)} |"


def spread(values: Sequence[float], *, digits: int = 1) -> str:
    """Return mean and sample standard deviation."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    sys.exit(main())
