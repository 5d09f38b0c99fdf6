"""Latency of any subnet, from whole networks measured on the device and, where there are any, times of its blocks.

Two kinds of model compete, by held-out error: lines on the block table's sum, which is off by 5 to 100 % (profiler
overhead, cold caches) but in proportion; and physical models, which add up what networks are made of (blocks,
multiply-adds, feature maps, weights) at prices learned from the measured subnets alone. All are sums over layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import AdditiveCost, block_cost, physical_costs, weighted_cost
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import TableError
from ofa_kit.predictors.latency_models import (
    Candidate,
    Fit,
    Solve,
    choose,
    nonnegative,
    plain,
    robust,
    signed,
)
from ofa_kit.predictors.one_thread import one_blas_thread

Values = NDArray[np.float64]
MINIMUM = 4
CONSTANT, BLOCK_SUM = "constant", "block_sum"
LINES = ((BLOCK_SUM,), (BLOCK_SUM, CONSTANT), (BLOCK_SUM, CONSTANT, "layers"), (BLOCK_SUM, CONSTANT, "kernels"))
FEW = (CONSTANT, "blocks", "squeezes", "pointwise_macs", "depthwise_macs", "wide_elements")
ALL = (*FEW, "smooth_blocks", "dense_macs", "block_elements", "other_elements", "params")
REPEATS = 0.015
"""Share by which times of one subnet in two tables may differ: what a table says of itself does not include it."""
OUTSIDE = 1.5
"""How many more times the error is expected at one measured range outside of what was measured."""


@dataclass(frozen=True)
class Calibration:
    """What turns a prediction's inputs into its error bar."""

    columns: tuple[str, ...]
    fit: Fit
    quantile: float
    """Relative error of nine in ten predictions, before they are far from what was measured."""
    low: Values
    high: Values
    """Smallest and largest value of each physical cost among the measured subnets, by name: the hull."""

    def outside(self, physical: Values) -> Values:
        """Return how far physical costs (N, F) are outside the measured ranges, in ranges; 0 inside."""
        span = np.maximum(np.maximum(self.high - self.low, 0.1 * self.high), 1.0)
        beyond = np.maximum(physical - self.high, self.low - physical) / span
        return np.asarray(np.maximum(beyond, 0.0).max(axis=1))


@dataclass(frozen=True)
class LatencyPredictor:
    """Predicts milliseconds for whole populations of genomes."""

    total: AdditiveCost
    """Milliseconds of each layer, calibrated."""
    constant_ms: float = 0.0
    floor: AdditiveCost | None = None
    """Half of what the block sum suggests, where coefficients may be negative: no line falls below."""
    block_sum: AdditiveCost | None = None
    name: str = "sum of blocks"
    """Which model won."""
    held_out: dict[str, float] = field(default_factory=dict)
    """Scores on subnets that a fit has not seen: mape (percent), within_5, within_10 (shares), tau, n; else empty."""
    calibration: Calibration | None = None

    @classmethod
    def fit(
        cls, space: SearchSpace, blocks: Mapping[str, float], measured: Sequence[tuple[ArchConfig, float]]
    ) -> "LatencyPredictor":
        """Learn from measured subnets (arch, ms), and from block times (ms by lowering key) where none is missing."""
        if len(measured) < MINIMUM:
            raise TableError(
                f"calibration needs at least {MINIMUM} measured subnets, found {len(measured)}; profile again"
            )
        genomes = np.stack([space.encode(arch) for arch, _ in measured])
        target = np.array([ms for _, ms in measured])
        block_sum = _whole_block_sum(space, blocks)
        costs = _costs(space, block_sum)
        candidates = _candidates(len(target), with_blocks=block_sum is not None)
        with one_blas_thread():
            best, fit, held_out = choose(candidates, _inputs(costs, genomes), target)
        physical, quantile = _physical(space, genomes), float(np.hypot(held_out.error_quantile(target), REPEATS))
        prices = dict(zip(best.columns, fit.coefficients, strict=True))
        constant_ms = float(prices.pop(CONSTANT, 0.0))
        return cls(
            total=weighted_cost([costs[name] for name in prices], list(prices.values())),
            constant_ms=constant_ms,
            floor=_floor(block_sum, genomes, target) if block_sum is not None and best.solve is signed else None,
            block_sum=block_sum,
            name=best.name,
            held_out=held_out.scores(target),
            calibration=Calibration(best.columns, fit, quantile, physical.min(axis=0), physical.max(axis=0)),
        )

    @classmethod
    def sum_of_blocks(cls, space: SearchSpace, blocks: Mapping[str, float]) -> "LatencyPredictor":
        """Take block times (ms by lowering key) as they are, as those of an imported table."""
        return cls(block_cost(space, blocks))

    @property
    def quality(self) -> str:
        """One line on what the predictions are worth."""
        if not self.held_out:
            return "not calibrated: imported table"
        found = self.held_out
        return (
            f"{self.name}; on held-out subnets of {found['n']:.0f} measured: MAPE {found['mape']:.2f} %, within 5 % "
            f"{100 * found['within_5']:.0f} %, within 10 % {100 * found['within_10']:.0f} %, "
            f"Kendall tau {found['tau']:.3f}"
        )

    def predict_ms(self, genomes: Genomes) -> Values:
        """Return predicted milliseconds, shape (N,); infinite where an imported table lacks a block."""
        predicted = self.total.total(genomes) + self.constant_ms
        if self.floor is not None:
            predicted = np.maximum(predicted, self.floor.total(genomes))
        return np.where(np.isnan(predicted), np.inf, predicted)

    def predict(self, genomes: Genomes) -> tuple[Values, Values]:
        """Return predicted milliseconds and the error in milliseconds that nine in ten stay within, both (N,).

        The error grows with the leverage of a subnet and with its distance outside the hull, the ranges of the
        physical costs that were measured. NaN where nothing was measured that could tell.
        """
        predicted = self.predict_ms(genomes)
        calibration = self.calibration
        if calibration is None:
            return predicted, np.full(len(genomes), np.nan)
        inputs = _inputs(_costs(self.total.space, self.block_sum), genomes)
        spread = calibration.fit.spread(np.stack([inputs[name] for name in calibration.columns], axis=1))
        outside = calibration.outside(_physical(self.total.space, genomes))
        return predicted, predicted * calibration.quantile * spread * (1 + OUTSIDE * outside)


def _whole_block_sum(space: SearchSpace, blocks: Mapping[str, float]) -> AdditiveCost | None:
    """Return the sum of block times; None where not every block of the space was measured."""
    found = block_cost(space, blocks) if blocks else None
    return found if found is not None and found.complete else None


def _floor(block_sum: AdditiveCost, genomes: Genomes, target: Values) -> AdditiveCost:
    return weighted_cost([block_sum], [float(np.median(target / block_sum.total(genomes))) / 2])


def _candidates(measured: int, *, with_blocks: bool) -> list[Candidate]:
    shapes: list[tuple[str, tuple[str, ...], Solve]] = []
    if with_blocks:
        shapes += [(" + ".join(line), line, signed) for line in LINES if measured >= 4 * len(line)]
        shapes.append(("physical model + block_sum", (BLOCK_SUM, *ALL), nonnegative))
    if measured < 2 * len(FEW):
        shapes.append(("small physical model", FEW, nonnegative))
    shapes.append(("physical model", ALL, nonnegative))
    return [Candidate(*shape, estimate) for shape in shapes for estimate in (plain, robust)]


def _costs(space: SearchSpace, block_sum: AdditiveCost | None) -> dict[str, AdditiveCost]:
    return physical_costs(space) | ({} if block_sum is None else {BLOCK_SUM: block_sum})


def _inputs(costs: Mapping[str, AdditiveCost], genomes: Genomes) -> dict[str, Values]:
    return {CONSTANT: np.ones(len(genomes))} | {name: cost.total(genomes) for name, cost in costs.items()}


def _physical(space: SearchSpace, genomes: Genomes) -> Values:
    return np.stack([cost.total(genomes) for cost in physical_costs(space).values()], axis=1)
