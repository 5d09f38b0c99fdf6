"""Budget, Candidate and Objective: what a subnet may cost, what is predicted of one, and how populations are judged."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of, params_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import OfaKitError
from ofa_kit.search import costs

Values = NDArray[np.float64]
Predict = Callable[[Genomes], Values]
TOLERANCE = 1e-12
"""Share of a limit that rounding may break: a budget of exactly what a subnet takes is met by it."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits for one run of the model, all to be met; infinite = no limit.

    With `min_top1` the goal turns round: the lowest latency on the first device of those that are accurate enough.
    """

    latency_ms: float = math.inf
    """On the first device."""
    other_latencies_ms: Mapping[str, float] = field(default_factory=dict)
    """On further devices, by name."""
    macs_m: float = math.inf
    """Millions of multiply-adds."""
    params_m: float = math.inf
    """Millions of parameters."""
    model_mb: float = math.inf
    """Megabytes (10^6 bytes) of the weights in fp32."""
    peak_memory_mb: float = math.inf
    """Megabytes (10^6 bytes) of the feature maps that one image needs at once in fp32."""
    min_top1: float | None = None
    """Least predicted top-1 in percent."""

    def __post_init__(self) -> None:
        limits = {
            "latency-ms": self.latency_ms,
            "macs-m": self.macs_m,
            "params-m": self.params_m,
            "model-mb": self.model_mb,
            "peak-memory-mb": self.peak_memory_mb,
        }
        require_positive(limits.items())
        require_positive((f"latency-ms of {name}", limit) for name, limit in self.other_latencies_ms.items())
        if self.min_top1 is not None and not 0 < self.min_top1 <= 100:
            raise OfaKitError(f"--min-top1 must be above 0 and at most 100 %, found {self.min_top1:g}")

    def __str__(self) -> str:
        limits = [(self.latency_ms, "ms", "")]
        limits += [(limit, "ms", f" on {name}") for name, limit in self.other_latencies_ms.items()]
        limits += [
            (self.macs_m, "M MACs", ""),
            (self.params_m, "M parameters", ""),
            (self.model_mb, "MB of weights", ""),
            (self.peak_memory_mb, "MB peak memory", ""),
        ]
        said = [f"{limit:g} {unit}{where}" for limit, unit, where in limits if math.isfinite(limit)]
        if self.min_top1 is not None:
            said.append(f"top-1 of at least {self.min_top1:g} %")
        return " and ".join(said) or "no limit"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A subnet with its predicted values; measured ones are never put here."""

    arch: ArchConfig
    predicted_top1: float
    predicted_latency_ms: float
    """On the first device."""
    other_latencies_ms: Mapping[str, float] = field(default_factory=dict)
    """Predicted for further devices, by name."""
    macs_m: float


@dataclass(frozen=True)
class Limit:
    """What a subnet may cost, of one kind."""

    name: str
    cost_of: Predict
    most: float


@dataclass(frozen=True)
class Objective:
    """Judges genomes: best predicted top-1 within the budget or, with `budget.min_top1`, lowest predicted latency."""

    space: SearchSpace
    budget: Budget
    predict_top1: Predict
    predict_latency_ms: Predict
    """Of the first device."""
    predict_others_ms: Mapping[str, Predict] = field(default_factory=dict)
    """Of further devices, by name."""
    other_costs: Mapping[str, tuple[Predict, float]] = field(default_factory=dict)
    """Any further cost by name: its function of genomes (N, length) -> (N,) and its limit."""

    def __post_init__(self) -> None:
        unknown = self.budget.other_latencies_ms.keys() - self.predict_others_ms.keys()
        if unknown:
            raise OfaKitError(f"no latency predictor of {', '.join(sorted(unknown))}; profile that device first")
        require_positive((name, most) for name, (_, most) in self.other_costs.items())

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """Everything that is limited; the latency of the first device comes first where it is."""
        budget, space = self.budget, self.space
        found = [Limit("latency", self.predict_latency_ms, budget.latency_ms)]
        found += [Limit(f"latency on {k}", self.predict_others_ms[k], v) for k, v in budget.other_latencies_ms.items()]
        found += [
            Limit("MACs", lambda genomes: macs_of(space, genomes) / 1e6, budget.macs_m),
            Limit("parameters", lambda genomes: params_of(space, genomes) / 1e6, budget.params_m),
            Limit("weights", lambda genomes: costs.model_mb(space, genomes), budget.model_mb),
            Limit("peak memory", lambda genomes: costs.peak_memory_mb(space, genomes), budget.peak_memory_mb),
        ]
        found += [Limit(name, cost_of, most) for name, (cost_of, most) in self.other_costs.items()]
        return tuple(limit for limit in found if math.isfinite(limit.most))

    def excess(self, genomes: Genomes) -> Values:
        """Return by which share each genome breaks the limit that it breaks most, 0 where it meets all."""
        over = np.zeros(len(genomes))
        for limit in self.limits:
            over = np.maximum(over, limit.cost_of(genomes) / limit.most - 1)
        over = np.nan_to_num(over, nan=np.inf, posinf=np.inf)
        return np.where(over > TOLERANCE, over, 0.0)

    def score(self, genomes: Genomes) -> Values:
        """Return what to raise, shape (N,): at least 0 within budget, below 0 outside and larger the nearer to it.

        Within budget it is the predicted top-1 in percent, or runs a millisecond where `min_top1` is asked for. The
        top-1 of genomes that break a limit is not predicted.
        """
        over = self.excess(genomes)
        score, inside = -1 - over, over == 0
        if inside.any():
            score[inside] = self._score_inside(genomes[inside], self.predict_top1(genomes[inside]))
        return score

    def score_known(self, genomes: Genomes, top1: Values) -> Values:
        """Return the score of genomes whose predicted top-1 (N,) is known."""
        over = self.excess(genomes)
        return np.where(over > 0, -1 - over, self._score_inside(genomes, top1))

    def candidate(self, genome: NDArray[np.int64]) -> Candidate:
        """Return one genome, shape (length,), with its predictions."""
        one = genome[None]
        return Candidate(
            arch=self.space.decode(genome),
            predicted_top1=float(self.predict_top1(one)[0]),
            predicted_latency_ms=float(self.predict_latency_ms(one)[0]),
            other_latencies_ms={name: float(predict(one)[0]) for name, predict in self.predict_others_ms.items()},
            macs_m=float(macs_of(self.space, one)[0]) / 1e6,
        )

    def candidates(self, genomes: Genomes) -> list[Candidate]:
        """Return genomes (N, length) with their predictions, in the same order."""
        return [self.candidate(genome) for genome in genomes]

    def _score_inside(self, genomes: Genomes, top1: Values) -> Values:
        top1 = np.maximum(top1, 0.0)
        if self.budget.min_top1 is None:
            return top1
        short = 1 - top1 / self.budget.min_top1
        return np.where(short > TOLERANCE, -short, 1 / self.predict_latency_ms(genomes))


def require_positive(limits: Iterable[tuple[str, float]]) -> None:
    """Raise an OfaKitError that names the first limit which is no positive number."""
    for name, value in limits:
        if not value > 0:
            raise OfaKitError(f"--{name} must be above 0, found {value:g}; give what one run of the model may cost")
