"""How well top-1 of subnets is predicted from few measured ones, beside other ways to predict it.

    python tools/bench/accuracy_predictor.py ofa_mbv3_w10_imagenet_top1.csv

The file has subnets of MIT's MobileNetV3 supernet (width 1.0) with ImageNet top-1 as measured (Intel's DyNAS-T). Each
split holds out 300 random rows; the models learn from the first rows of the rest. Scores are means over the splits and
their standard deviation. OMP_NUM_THREADS=1 gives each fit one core.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from torch import nn

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import accuracy_features, macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.ofa_format import from_ofa_dict
from ofa_kit.arch.presets import preset
from ofa_kit.latency.protocol import load_average
from ofa_kit.predictors import scores
from ofa_kit.predictors.accuracy import AccuracyPredictor

Values = NDArray[np.float64]
Learn = Callable[[Genomes, Values], Callable[[Genomes], Values]]
"""From genomes (N, L) and standardised top-1 (N,) to what predicts it."""
SPACE = preset("ofa-mbv3-w1.0")
HELD_OUT, TOP = 300, 0.2
TARGETS = {50: (0.86, 0.28), 100: (0.89, 0.20), 200: (0.925, 0.135), 400: (0.942, 0.104), 780: (0.955, 0.08)}
"""Kendall tau at least and RMSE in points at most, by rows learned from."""
COVERED = (0.85, 0.95)
MLP_STEPS, MLP_BATCH = 600, 64
"""2.5 times as many steps change the network's RMSE by 4 % at most."""
MANY, MANY_ROWS, MOST_SECONDS = 10_000, 400, 0.5
OURS, MACS = "ofa-kit", "log-MACs"


@dataclass(frozen=True)
class Score:
    """One model on one split."""

    tau: float
    rmse: float
    tau_top: float
    """Among the true best fifth."""
    seconds: float
    """Of the processor, for fitting and predicting."""
    coverage: float = float("nan")


@dataclass(frozen=True)
class Verdict:
    """What is asked, what was found, and whether that is enough."""

    text: str
    met: bool

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'} {self.text}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(TARGETS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start_s, rows = perf_counter(), read(arguments.table)
    print(f"{len(rows)} subnets, {arguments.splits} random splits, {HELD_OUT} held out; load {load_average():.2f}")
    verdicts = []
    for size in arguments.sizes:
        found = [judge_split(*split(rows, size, seed)) for seed in range(arguments.splits)]
        verdicts += judged(size, {name: [scored[name] for scored in found] for name in found[0]})
    verdicts += judged_speed(rows)
    missed = sum(not verdict.met for verdict in verdicts)
    print(f"\n{missed} of {len(verdicts)} targets missed; took {perf_counter() - start_s:.0f} s")


def read(path: Path) -> list[tuple[ArchConfig, float]]:
    """Return subnets and their top-1 in percent."""
    rows = []
    with path.open() as file:
        for row in csv.DictReader(file):
            kernels, expands = ([int(c) for c in row[name]] for name in ("kernel_sizes", "expand_ratios"))
            values = {"ks": kernels, "e": expands, "d": [int(c) for c in row["depth"]], "r": int(row["resolution"])}
            rows.append((from_ofa_dict(SPACE, values), float(row["top1_percent"])))
    return rows


def split(rows: Sequence[tuple[ArchConfig, float]], size: int, seed: int) -> list[list[tuple[ArchConfig, float]]]:
    """Return `size` random rows to learn from and as many to hold out as always."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return [[rows[i] for i in part] for part in (order[HELD_OUT : HELD_OUT + size], order[:HELD_OUT])]


def judge_split(
    seen: Sequence[tuple[ArchConfig, float]], unseen: Sequence[tuple[ArchConfig, float]]
) -> dict[str, Score]:
    """Return the scores of each model on the held-out rows."""
    genomes, others = (np.stack([SPACE.encode(arch) for arch, _ in rows]) for rows in (seen, unseen))
    top1, true = (np.array([value for _, value in rows]) for rows in (seen, unseen))
    start_s = process_time()
    predicted, half_width = AccuracyPredictor.fit(SPACE, seen).predict(others)
    inside = float(np.mean(np.abs(predicted - true) <= half_width))
    found = {OURS: score(predicted, true, process_time() - start_s, inside)}
    center, scale = top1.mean(), top1.std()
    for name, learn in RIVALS.items():
        start_s = process_time()
        predicted = center + scale * learn(genomes, (top1 - center) / scale)(others)
        found[name] = score(predicted, true, process_time() - start_s)
    return found


def score(predicted: Values, true: Values, seconds: float, coverage: float = float("nan")) -> Score:
    """Return how good predictions are, and how long they took."""
    best = true >= np.quantile(true, 1 - TOP)
    tau, tau_top = scores.kendall_tau(predicted, true), scores.kendall_tau(predicted[best], true[best])
    return Score(tau, scores.rmse(predicted, true), tau_top, seconds, coverage)


def judged(size: int, found: dict[str, list[Score]]) -> list[Verdict]:
    """Print the scores of all models as a table, and what is asked of ours."""
    print(f"\n{f'{size} rows':16s} Kendall tau      RMSE, points     tau of top 20 %  90 % interval  CPU s")
    for name, several in found.items():
        columns = np.array([astuple(one) for one in several])
        cells = [f"{m:.3f} ± {d:.3f}" for m, d in zip(columns.mean(axis=0), columns.std(axis=0), strict=True)]
        inside = "" if np.isnan(columns[0, 4]) else cells[4]
        print(f"{name:16s} {cells[0]}    {cells[1]}    {cells[2]}    {inside:13s}  {columns[:, 3].mean():.2f}")
    verdicts = [*absolute(size, found), *relative(found)]
    print(*verdicts, sep="\n", flush=True)
    return verdicts


def absolute(size: int, found: dict[str, list[Score]]) -> list[Verdict]:
    """Return what our scores must reach on average."""
    ours, covered = np.mean([astuple(one) for one in found[OURS]], axis=0), [one.coverage for one in found[OURS]]
    low, high = COVERED
    verdicts = [
        Verdict(
            f"90 % intervals hold {low:.0%}..{high:.0%}: {ours[4]:.1%} ({min(covered):.1%}..{max(covered):.1%})",
            bool(low <= ours[4] <= high),
        )
    ]
    if size in TARGETS:
        tau, rmse = TARGETS[size]
        verdicts.append(Verdict(f"Kendall tau >= {tau}: {ours[0]:.4f}", bool(ours[0] >= tau)))
        verdicts.append(Verdict(f"RMSE <= {rmse}: {ours[1]:.4f}", bool(ours[1] <= rmse)))
    return verdicts


def relative(found: dict[str, list[Score]]) -> list[Verdict]:
    """Return where ours must be better than the others on average."""
    means = {name: np.mean([astuple(one) for one in several], axis=0) for name, several in found.items()}
    verdicts = []
    for name in RIVALS:
        wins = sum(a.tau > b.tau and a.rmse < b.rmse for a, b in zip(found[OURS], found[name], strict=True))
        better = means[OURS][0] > means[name][0] and means[OURS][1] < means[name][1]
        verdicts.append(
            Verdict(f"better than {name} in both: yes in {wins} of {len(found[name])} splits", bool(better))
        )
    text = f"tau of the top 20 % at least that of {MACS}: {means[OURS][2]:.3f}, {means[MACS][2]:.3f}"
    return [*verdicts, Verdict(text, bool(means[OURS][2] >= means[MACS][2]))]


def judged_speed(rows: Sequence[tuple[ArchConfig, float]]) -> list[Verdict]:
    """Print how long a large population takes, the fastest of five runs."""
    predictor = AccuracyPredictor.fit(SPACE, split(rows, MANY_ROWS, 0)[0])
    genomes = SPACE.sample_genomes(MANY, np.random.default_rng(0))
    print(f"\n{MANY} genomes, {MANY_ROWS} rows learned from")
    verdicts = []
    for name, predict in (("top-1", predictor.predict_top1), ("top-1 and intervals", predictor.predict)):
        seconds = min(timed(lambda: predict(genomes)) for _ in range(5))  # noqa: B023
        verdicts.append(Verdict(f"{name} within {MOST_SECONDS} s: {seconds:.3f} s", seconds <= MOST_SECONDS))
    print(*verdicts, sep="\n")
    return verdicts


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that it takes."""
    start_s = perf_counter()
    work()
    return perf_counter() - start_s


def ridge(genomes: Genomes, target: Values) -> Callable[[Genomes], Values]:
    """One-hot, depth of each stage, log-MACs and its square, the penalty by leave-one-out."""

    def inputs(genomes: Genomes) -> Values:
        features, depths = accuracy_features(SPACE, genomes), genomes[:, SPACE.depth_genes]
        return np.hstack([features[:, :-1], features[:, [-2]] ** 2, depths])

    model = RidgeCV(np.logspace(-3, 3, 25)).fit(inputs(genomes), target)
    return lambda others: np.asarray(model.predict(inputs(others)))


def ofa_mlp(genomes: Genomes, target: Values) -> Callable[[Genomes], Values]:
    """Once-for-all's recipe: one-hot, three hidden layers of 400, Adam at 1e-3 with weight decay 1e-4."""
    torch.manual_seed(0)
    inputs, outputs = one_hot(genomes), torch.from_numpy(target).float()
    widths = (inputs.shape[1], 400, 400, 400)
    hidden = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(400, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(MLP_STEPS):
        batch = torch.randint(len(target), (MLP_BATCH,))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs[batch])[:, 0], outputs[batch]).backward()
        optimizer.step()
    model.requires_grad_(requires_grad=False)
    return lambda others: model(one_hot(others))[:, 0].double().numpy()


def one_hot(genomes: Genomes) -> torch.Tensor:
    """Return every choice as a column (N, C)."""
    return torch.from_numpy(accuracy_features(SPACE, genomes)[:, :-2]).float()


def log_macs(genomes: Genomes, target: Values) -> Callable[[Genomes], Values]:
    """Return a line on log-MACs."""
    line = np.polynomial.Polynomial.fit(np.log(macs_of(SPACE, genomes)), target, 1)
    return lambda others: np.asarray(line(np.log(macs_of(SPACE, others))))


def support_vectors(genomes: Genomes, target: Values) -> Callable[[Genomes], Values]:
    """Support vectors on our features, the parameters by cross-validation."""
    grid = {"svr__C": [1.0, 10.0, 100.0], "svr__gamma": [1e-4, 3e-4, 1e-3, 3e-3]}
    model = GridSearchCV(
        make_pipeline(StandardScaler(), SVR(epsilon=0.02)), grid, cv=5, scoring="neg_mean_squared_error"
    )
    model.fit(accuracy_features(SPACE, genomes), target)
    return lambda others: np.asarray(model.predict(accuracy_features(SPACE, others)))


def boosted_trees(genomes: Genomes, target: Values) -> Callable[[Genomes], Values]:
    """Gradient boosting on our features."""
    model = GradientBoostingRegressor(
        n_estimators=300, learning_rate=0.05, max_depth=3, subsample=0.7, max_features=0.5, random_state=0
    )
    model.fit(accuracy_features(SPACE, genomes), target)
    return lambda others: np.asarray(model.predict(accuracy_features(SPACE, others)))


RIVALS: dict[str, Learn] = {
    "ridge": ridge,
    "OFA's MLP": ofa_mlp,
    MACS: log_macs,
    "support vectors": support_vectors,
    "boosted trees": boosted_trees,
}


if __name__ == "__main__":
    main()
