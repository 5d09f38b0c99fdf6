"""Main effects: what each single choice does to a predicted value, averaged over the rest of the space.

A stage's kernel sizes, and its expand ratios, are one choice here: all blocks of the stage get the same one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace

Values = NDArray[np.float64]
Predict = Callable[[Genomes], Values]
"""From genomes (N, genome_length) to values (N,)."""
BACKGROUND = 500
"""Random architectures over which an effect is averaged."""


@dataclass(frozen=True)
class Effect:
    """One choice of the space: what each of its L values gives, against the mean of all of them."""

    name: str
    choices: tuple[float, ...]
    points: Values
    """(L,), in the unit of the predictions; they sum to zero."""
    standard_errors: Values
    """(L,): how much `points` depend on which subnets were measured; NaN where no refits were given."""
    macs_m: Values
    """(L,): millions of multiply-adds, against their mean."""
    rows: tuple[int, ...]
    """Measured subnets that have the choice somewhere: what stands behind each value."""

    @property
    def span(self) -> float:
        """Difference between the best and the worst value of this choice."""
        return float(np.ptp(self.points))


def main_effects(
    space: SearchSpace, predict: Predict, measured: Genomes, refits: Sequence[Predict] = (), *, seed: int = 0
) -> list[Effect]:
    """Return the effect of every choice of the space, the widest span first.

    `measured` (M, genome_length) is what `predict` learned from; each of the `refits` did without an equal, other part
    of it, so that they tell the standard errors (delete-a-group jackknife).
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, space.choice_counts, size=(BACKGROUND, space.genome_length))
    effects = [
        _effect(space, name, positions, drawn, predict, measured, refits)
        for name, positions in _factors(space).items()
        if len(_choices(space, positions)) > 1
    ]
    return sorted(effects, key=lambda effect: -effect.span)


def _effect(
    space: SearchSpace,
    name: str,
    positions: Sequence[int],
    drawn: Genomes,
    predict: Predict,
    measured: Genomes,
    refits: Sequence[Predict],
) -> Effect:
    choices = _choices(space, positions)
    populations = np.vstack([_with_choice(space, drawn, positions, choice) for choice in choices])
    points, macs_m = (_centred(found, len(choices)) for found in (predict(populations), macs_of(space, populations)))
    refitted = np.array([_centred(refit(populations), len(choices)) for refit in refits])
    return Effect(
        name=name,
        choices=choices,
        points=points,
        standard_errors=_jackknife(refitted) if len(refits) > 1 else np.full(len(choices), np.nan),
        macs_m=macs_m / 1e6,
        rows=tuple(_rows_with(space, measured, positions, choice) for choice in choices),
    )


def _factors(space: SearchSpace) -> dict[str, list[int]]:
    """Return the genes that are changed together, by the name of what they are."""
    factors: dict[str, list[int]] = {}
    for position, gene in enumerate(space.genes):
        if gene.kind == "resolution":
            name = "resolution"
        elif gene.kind in ("stem", "head"):
            name = f"{gene.kind} {gene.block + 1}"
        else:
            name = f"{gene.kind.replace('_', ' ')}, stage {gene.stage + 1}"
        factors.setdefault(name, []).append(position)
    return factors


def _choices(space: SearchSpace, positions: Sequence[int]) -> tuple[Any, ...]:
    return tuple(sorted({choice for position in positions for choice in space.genes[position].choices}))


def _with_choice(space: SearchSpace, drawn: Genomes, positions: Sequence[int], choice: float) -> Genomes:
    """Give all genomes the choice; a block that lacks it takes its nearest."""
    genomes = drawn.copy()
    for position in positions:
        genomes[:, position] = np.argmin(np.abs(np.array(space.genes[position].choices, dtype=float) - choice))
    return space.canonical(genomes)


def _centred(values: Values, count: int) -> Values:
    """Return the means (count,) of `count` equally long parts, less the mean of all."""
    means = values.reshape(count, -1).mean(axis=1)
    return np.asarray(means - means.mean())


def _jackknife(refitted: Values) -> Values:
    """Return standard errors (L,) from values (K, L) of K refits, each without another K-th of the rows."""
    return np.asarray(np.sqrt((len(refitted) - 1) * refitted.var(axis=0)))


def _rows_with(space: SearchSpace, measured: Genomes, positions: Sequence[int], choice: float) -> int:
    having = [
        measured[:, position] == space.genes[position].choices.index(choice)
        for position in positions
        if choice in space.genes[position].choices
    ]
    return int(np.any(having, axis=0).sum())
