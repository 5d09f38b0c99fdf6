"""Predict the latency of a real GPU from twenty measured subnets, beside the usual ways.

    python tools/bench/latency_gpu.py ofa_mbv3_gpu_latency.csv

The file holds subnets of once-for-all's MobileNetV3 space, timed on a Titan RTX at batch 1 and 64 (HELP, Lee et al.
2021; columns resolution, depth, kernel_sizes, expand_ratios, titan_rtx_1_ms, titan_rtx_64_ms). Each draw learns from a
few subnets and is judged on all others. Ours knows no block times here. Beside it, from the same subnets: gradient
boosting on our physical costs and one-hot choices, and a line on MACs. Exit code 1 when a target is missed.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of, physical_costs
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.ofa_format import from_ofa_dict
from ofa_kit.arch.presets import preset
from ofa_kit.predictors import scores
from ofa_kit.predictors.latency import LatencyPredictor

Values = NDArray[np.float64]
SPACE = preset("ofa-mbv3-w1.0")
TARGETS = {"titan_rtx_64": 1.3, "titan_rtx_1": 4.3}
"""Largest mean MAPE in percent."""
COLUMNS = ("MAPE %", "within 5 %", "within 10 %", "tau", "in error bar")


@dataclass(frozen=True)
class Learner:
    """One draw's known subnets; each method predicts (N,) milliseconds of others and, if it can, their errors."""

    genomes: Genomes
    latency_ms: Values

    def ours(self, others: Genomes) -> tuple[Values, Values | None]:
        archs: list[ArchConfig] = [SPACE.decode(genome) for genome in self.genomes]
        return LatencyPredictor.fit(SPACE, {}, list(zip(archs, self.latency_ms, strict=True))).predict(others)

    def boosting(self, others: Genomes) -> tuple[Values, Values | None]:
        model = GradientBoostingRegressor(random_state=0).fit(features(self.genomes), np.log(self.latency_ms))
        return np.exp(model.predict(features(others))), None

    def macs_line(self, others: Genomes) -> tuple[Values, Values | None]:
        rows = line_inputs(self.genomes) / self.latency_ms[:, None]
        return line_inputs(others) @ np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0], None


METHODS: dict[str, Callable[[Learner, Genomes], tuple[Values, Values | None]]] = {
    "ours": Learner.ours,
    "gradient boosting": Learner.boosting,
    "line on MACs": Learner.macs_line,
}


def main() -> int:
    """Read the command line; print one table a device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--subnets", type=int, default=20, help="Measured subnets to learn from.")
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args()
    genomes, times = read(arguments.data)
    missed = []
    for device, latency_ms in times.items():
        found = {
            name: [draw(method, genomes, latency_ms, arguments.subnets, seed) for seed in range(arguments.draws)]
            for name, method in METHODS.items()
        }
        print(
            f"\n{device}: {arguments.draws} draws of {arguments.subnets} of {len(genomes)} subnets, judged on the rest"
        )
        print("\n".join(table(found)))
        missed += verdict(device, {name: float(np.mean(rows, axis=0)[0]) for name, rows in found.items()})
    print("\n" + ("\n".join(missed) or "every target is met"))
    return 1 if missed else 0


def read(path: Path) -> tuple[Genomes, dict[str, Values]]:
    """Return the subnets (N, length) and their milliseconds (N,) by device."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    genomes = []
    for row in rows:
        digits = {name: [int(digit) for digit in row[name]] for name in ("depth", "kernel_sizes", "expand_ratios")}
        values = {"ks": digits["kernel_sizes"], "e": digits["expand_ratios"], "d": digits["depth"]}
        genomes.append(SPACE.encode(from_ofa_dict(SPACE, values | {"r": int(row["resolution"])})))
    return np.stack(genomes), {device: np.array([float(row[f"{device}_ms"]) for row in rows]) for device in TARGETS}


def draw(
    method: Callable[[Learner, Genomes], tuple[Values, Values | None]],
    genomes: Genomes,
    latency_ms: Values,
    subnets: int,
    seed: int,
) -> list[float]:
    """Return the scores of one draw, as `COLUMNS`."""
    order = np.random.default_rng(seed).permutation(len(genomes))
    known, others = order[:subnets], order[subnets:]
    measured = latency_ms[others]
    predicted, error = method(Learner(genomes[known], latency_ms[known]), genomes[others])
    return [
        scores.mape(predicted, measured),
        scores.within(predicted, measured, 5),
        scores.within(predicted, measured, 10),
        scores.kendall_tau(predicted, measured),
        float("nan") if error is None else float(np.mean(np.abs(predicted - measured) <= error)),
    ]


def table(found: dict[str, list[list[float]]]) -> list[str]:
    """Return lines of mean, spread (standard deviation) and worst draw of each score."""
    lines = [f"{'':18}" + "".join(f"{column:>26}" for column in COLUMNS)]
    lines.append(f"{'':18}" + f"{'mean    sd    worst':>26}" * len(COLUMNS))
    for name, rows in found.items():
        values = np.array(rows)
        worst = [values[:, 0].max(), *values[:, 1:].min(axis=0)]
        cells = zip(values.mean(axis=0), values.std(axis=0), worst, strict=True)
        lines.append(f"{name:18}" + "".join(f"{mean:12.3f} {sd:6.3f} {bad:6.3f}" for mean, sd, bad in cells))
    return lines


def verdict(device: str, mape: dict[str, float]) -> Sequence[str]:
    """Return what was missed: the device's target, or a better MAPE than every other method."""
    ours = mape["ours"]
    missed = [f"{device}: MAPE {ours:.2f} %, target {TARGETS[device]} %"] if ours > TARGETS[device] else []
    better = [name for name, value in mape.items() if name != "ours" and value <= ours]
    return [*missed, *(f"{device}: {name} is as good as ours" for name in better)]


def features(genomes: Genomes) -> Values:
    """Return (N, F): physical costs and one-hot choices."""
    costs = np.stack([cost.total(genomes) for cost in physical_costs(SPACE).values()], axis=1)
    one_hot = [genomes[:, [gene]] == np.arange(count) for gene, count in enumerate(SPACE.choice_counts)]
    return np.hstack([costs, *one_hot])


def line_inputs(genomes: Genomes) -> Values:
    """Return (N, 2): 1 and MACs."""
    return np.stack([np.ones(len(genomes)), macs_of(SPACE, genomes)], axis=1)


if __name__ == "__main__":
    sys.exit(main())
