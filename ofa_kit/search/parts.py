"""The parts of a space that sum up in a simple model: each block with all its genes, and every other gene alone.

A table of such a model holds for K cases (a resolution, or a genome that it describes the surroundings of) what each
option of each part adds: (K, parts, options), NaN where a part has fewer options. A skipped block adds 0.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import SKIPPED, Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.search.budget import Predict, Values


@dataclass(frozen=True)
class Part:
    """A block or a single gene."""

    positions: tuple[int, ...]
    options: Genomes
    """(options, len(positions))."""
    block: tuple[int, int] | None = None
    """Stage and block; None where the gene is never skipped."""


@dataclass(frozen=True)
class Parts:
    """The parts of a space in genome order, all but the resolution and the depths."""

    space: SearchSpace
    parts: tuple[Part, ...]
    most: int
    """Options of the part that has most."""

    def options_of(self, genomes: Genomes) -> NDArray[np.int64]:
        """Return which option each genome takes of each part, (N, parts); SKIPPED where the block is."""
        found = np.empty((len(genomes), len(self.parts)), dtype=np.int64)
        for column, part in enumerate(self.parts):
            same = (genomes[:, None, part.positions] == part.options).all(axis=2)
            found[:, column] = np.where(same.any(axis=1), same.argmax(axis=1), SKIPPED)
        return found

    def one_hot(self, genomes: Genomes) -> Values:
        """Return (N, resolutions + parts x most), for a linear model."""
        options = self.options_of(genomes)
        chosen = (options[:, :, None] == np.arange(self.most)).reshape(len(genomes), -1)
        return np.hstack([genomes[:, :1] == np.arange(len(self.space.resolutions)), chosen]).astype(float)

    def genomes(self, resolutions: NDArray[np.int64], options: NDArray[np.int64]) -> Genomes:
        """Return genomes of resolution genes (N,) and options (N, parts), SKIPPED blocks last in their stages."""
        made = np.full((len(options), self.space.genome_length), SKIPPED, dtype=np.int64)
        made[:, 0] = resolutions
        depths = np.zeros((len(options), len(self.space.stages)), dtype=np.int64)
        for column, part in enumerate(self.parts):
            there = options[:, column] != SKIPPED
            made[np.ix_(there, part.positions)] = part.options[options[there, column]]
            if part.block is not None:
                depths[:, part.block[0]] += there
        for stage, position in enumerate(self.space.depth_genes):
            choices = np.array(self.space.stages[stage].depths)
            if any(part.block is not None and part.block[0] == stage for part in self.parts):
                made[:, position] = (depths[:, [stage]] == choices).argmax(axis=1)
            else:  # its blocks share their genes: its depth is a part of its own
                made[:, position] = options[:, self._depth_column(position)]
        return made

    def _depth_column(self, position: int) -> int:
        return next(column for column, part in enumerate(self.parts) if part.positions == (position,))


@lru_cache(maxsize=16)
def parts_of(space: SearchSpace) -> Parts:
    """Return the parts of a space."""
    found, blocks = [], set()
    single = {stage for stage, choices in enumerate(space.stages) if choices.shared}
    for position, gene in enumerate(space.genes):
        if gene.kind == "resolution" or (gene.kind == "depth" and gene.stage not in single):
            continue
        if gene.block_of is None:
            found.append(Part((position,), np.arange(len(gene.choices))[:, None]))
        elif (gene.stage, gene.block) not in blocks:
            blocks.add((gene.stage, gene.block))
            place = gene.stage, gene.block
            own = [p for p, g in enumerate(space.genes) if g.block_of is not None and (g.stage, g.block) == place]
            every = np.array(list(product(*(range(len(space.genes[p].choices)) for p in own))))
            found.append(Part(tuple(own), every, (gene.stage, gene.block)))
    return Parts(space, tuple(found), max(len(part.options) for part in found))


@dataclass(frozen=True)
class Surroundings:
    """What a function of genomes does around each of K genomes, one option of one part changed at a time."""

    base: Values
    """(K, resolutions): its value at the smallest depths, by resolution."""
    table: Values
    """(K, parts, options)."""
    genomes: Genomes
    """Those that it was asked about, (N, length)."""
    values: Values
    """(N,)."""


def surroundings(parts: Parts, around: Genomes, value_of: Predict) -> Surroundings:
    """Tabulate a function around genomes (K, length): exact where it is a sum over parts."""
    space, count = parts.space, len(around)
    filled = _filled(space, around)
    asked = [around]
    resolutions = np.arange(len(space.resolutions))
    for resolution in range(len(resolutions)):
        asked.append(_with(around, 0, resolution))
    depths = [(s, c) for s in range(len(space.stages)) for c in range(len(space.stages[s].depths))]
    for stage, choice in depths:
        asked.append(_with(filled, space.depth_genes[stage], choice))
    for part in parts.parts:
        for option in part.options:
            asked.append(_option(space, filled, part, option))
    genomes = space.canonical(np.vstack(asked))
    values = value_of(genomes)
    by_ask = values.reshape(-1, count)
    here, by_resolution = by_ask[0], by_ask[1 : 1 + len(resolutions)]
    at = dict(zip(depths, by_ask[1 + len(resolutions) :], strict=False))
    rest = by_ask[1 + len(resolutions) + len(depths) :]
    table = np.full((count, len(parts.parts), parts.most), np.nan)
    taken = parts.options_of(filled)
    row = 0
    smallest = np.zeros(count)
    for stage in range(len(space.stages)):
        if not space.stages[stage].shared:
            smallest += at[stage, int(np.argmin(space.stages[stage].depths))] - here
    for column, part in enumerate(parts.parts):
        found = rest[row : row + len(part.options)]
        row += len(part.options)
        own = found[taken[:, column], np.arange(count)]
        table[:, column, : len(part.options)] = (found - own + _presence(space, part, at)).T
    return Surroundings((by_resolution + smallest).T, table, genomes, values)


def _presence(space: SearchSpace, part: Part, at: dict[tuple[int, int], Values]) -> Values | float:
    """Return what the first block that a depth adds, adds with it; 0 for others."""
    if part.block is None:
        return 0.0
    stage, block = part.block
    depths = sorted(space.stages[stage].depths)
    if block not in depths[:-1]:
        return 0.0
    index = space.stages[stage].depths.index
    return at[stage, index(depths[depths.index(block) + 1])] - at[stage, index(block)]


def _filled(space: SearchSpace, genomes: Genomes) -> Genomes:
    """Return genomes with the middle choice in skipped genes."""
    return np.where(genomes == SKIPPED, (space.choice_counts - 1) // 2, genomes)


def _with(genomes: Genomes, position: int, choice: int) -> Genomes:
    changed = genomes.copy()
    changed[:, position] = choice
    return changed


def _option(space: SearchSpace, filled: Genomes, part: Part, option: NDArray[np.int64]) -> Genomes:
    """Return genomes with one option of a part, their stages deepened where it takes that."""
    changed = filled.copy()
    changed[:, part.positions] = option
    if part.block is not None:
        stage, block = part.block
        depths = np.array(space.stages[stage].depths)
        enough = int(np.argmin(np.where(depths > block, depths, depths.max() + 1)))
        gene = space.depth_genes[stage]
        changed[:, gene] = np.where(depths[filled[:, gene]] > block, filled[:, gene], enough)
    return changed
