"""Budget and Candidate: what a subnet may cost, and what is predicted of one."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError

Values = NDArray[np.float64]
Predict = Callable[[Genomes], Values]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits for one run of the model; infinite = no limit."""

    latency_ms: float = math.inf
    macs_m: float = math.inf
    """Millions of multiply-adds."""

    def __post_init__(self) -> None:
        for name, value in (("latency-ms", self.latency_ms), ("macs-m", self.macs_m)):
            if not value > 0:
                raise OfaKitError(f"--{name} must be above 0, found {value:g}; give what one run of the model may cost")

    def __str__(self) -> str:
        limits = [f"{self.latency_ms:g} ms"] * math.isfinite(self.latency_ms)
        limits += [f"{self.macs_m:g} M MACs"] * math.isfinite(self.macs_m)
        return " and ".join(limits) or "no limit"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A subnet with its predicted values; measured ones are never put here."""

    arch: ArchConfig
    predicted_top1: float
    predicted_latency_ms: float
    macs_m: float


@dataclass(frozen=True)
class Objective:
    """A space with its predictors and a budget: judges whole populations."""

    space: SearchSpace
    budget: Budget
    predict_top1: Predict
    predict_latency_ms: Predict

    def excess(self, genomes: Genomes) -> Values:
        """Return by which share each genome breaks the budget, 0 where it meets it."""
        over = np.maximum(0.0, self.predict_latency_ms(genomes) / self.budget.latency_ms - 1)
        if math.isfinite(self.budget.macs_m):
            over = np.maximum(over, macs_of(self.space, genomes) / 1e6 / self.budget.macs_m - 1)
        return np.nan_to_num(over, nan=np.inf, posinf=np.inf)

    def score(self, genomes: Genomes) -> Values:
        """Return predicted top-1 for those within budget; below any top-1, ordered by excess, for the others."""
        over = self.excess(genomes)
        return np.where(over > 0, -over, np.maximum(self.predict_top1(genomes), 0.0))

    def candidate(self, genome: NDArray[np.int64]) -> Candidate:
        one = genome[None]
        return Candidate(
            arch=self.space.decode(genome),
            predicted_top1=float(self.predict_top1(one)[0]),
            predicted_latency_ms=float(self.predict_latency_ms(one)[0]),
            macs_m=float(macs_of(self.space, one)[0]) / 1e6,
        )

    def fastest(self) -> Genomes:
        """Return the smallest subnet at each resolution, shape (R, length): the safest guess at the fastest."""
        base = self.space.encode(self.space.smallest())
        genomes = np.repeat(base[None], len(self.space.resolutions), axis=0)
        genomes[:, 0] = np.arange(len(genomes))
        return genomes

    def require_feasible(self) -> None:
        """Raise InfeasibleBudgetError when not even the smallest subnets meet the budget."""
        genomes = self.fastest()
        if (self.excess(genomes) > 0).all():
            latency = self.predict_latency_ms(genomes)
            best = int(np.argmin(latency))
            raise InfeasibleBudgetError(
                f"no subnet of '{self.space.name}' meets {self.budget}; the fastest takes {latency[best]:.3f} ms "
                f"(predicted) with {macs_of(self.space, genomes)[best] / 1e6:.2f} M MACs; "
                "raise the budget or train a space with smaller choices"
            )
