"""What accuracy may depend on, in groups of numbers that matter equally: a process learns how much each group matters.

Each choice becomes a slope (does more help?) and a curve (does it help ever less?) over the order of its values, and
where there are more than three values, levels free of any order. Beside slopes and curves of single blocks stand their
sums over stages and over the network, because blocks have much in common: few measured subnets settle the sums, more
settle what is special of a block. Skipped blocks count nothing.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import Gene
from ofa_kit.arch.space import SearchSpace

Values = NDArray[np.float64]
NETWORK, STAGE, BLOCK = range(3)
"""What genes are taken together of: as many of (stage, block) tell them apart."""
ORDERED = 3
"""Slope and curve say all about so many values."""


def feature_groups(space: SearchSpace) -> list[Values]:
    """Return the groups, each the columns (C + 2, F) by which `accuracy_features` are multiplied."""
    identity = np.eye(int(space.choice_counts.sum()) + 2)
    constant = identity[:, : len(space.resolutions)].sum(axis=1, keepdims=True)  # every subnet has one resolution
    groups = [constant, identity[:, [-2]], identity[:, [-1]]]
    for kind in dict.fromkeys(gene.kind for gene in space.genes):
        one_hot = {
            gene: identity[:, start : start + count]
            for gene, start, count in zip(space.genes, _starts(space), space.choice_counts, strict=True)
            if gene.kind == kind
        }
        groups += _sums(_contrasts(one_hot, 1), (NETWORK, STAGE, BLOCK))
        groups += _sums(_contrasts(one_hot, 2), (NETWORK, BLOCK))
        levels = [columns for gene, columns in one_hot.items() if len(gene.choices) > ORDERED]
        groups += [np.hstack(levels) / np.sqrt(len(levels))] if levels else []
    return groups


def _starts(space: SearchSpace) -> NDArray[np.int64]:
    return np.cumsum([0, *space.choice_counts[:-1]])


def _contrasts(one_hot: Mapping[Gene, Values], degree: int) -> dict[Gene, Values]:
    """Return for each gene with enough choices a polynomial of their order (C + 2,), of mean 0 and variance 1."""
    found = {}
    for gene, columns in one_hot.items():
        order = np.argsort(np.argsort(gene.choices)) / len(gene.choices)
        if len(order) > degree:
            basis = np.linalg.qr(np.vander(order, degree + 1, increasing=True))[0][:, degree]
            found[gene] = columns @ basis * np.sign(basis[np.argmax(order)]) * np.sqrt(len(order))
    return found


def _sums(columns: Mapping[Gene, Values], parts: tuple[int, ...]) -> list[Values]:
    """Return one group a way of taking genes together, the coarsest first, without those that equal a finer one."""
    found: dict[int, Values] = {}
    for part in parts if columns else ():
        together: dict[tuple[int, ...], list[Values]] = {}
        for gene, column in columns.items():
            together.setdefault((gene.stage, gene.block)[:part], []).append(column)
        sums = np.stack([np.sum(same, axis=0) for same in together.values()], axis=1)
        found[len(together)] = sums / np.sqrt(len(columns))
    return list(found.values())
