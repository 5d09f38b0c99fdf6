"""Which subnets measure-accuracy measures next: spread over multiply-adds, or where better ones are expected."""

from functools import partial

import numpy as np
import pytest

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import SKIPPED
from ofa_kit.arch.presets import PRESETS, preset
from ofa_kit.arch.selection import stratified_subnets
from ofa_kit.search.active import ROUND, START, ActiveChoice, SpreadChoice

SPACE = preset("mbv3-tiny")


def top1(genomes):
    return 60 + 4 * np.log(macs_of(SPACE, genomes) / 1e5) + genomes.sum(1) % 3


def with_top1(archs):
    return [(arch, float(top1(SPACE.encode(arch)[None])[0])) for arch in archs]


def chosen_from(choice, count):
    """Measure until there are `count`, as the command does."""
    measured = []
    while len(measured) < count:
        found = choice.next(measured, count - len(measured))
        assert 0 < len(found) <= count - len(measured)
        measured += with_top1(found)
    return [arch for arch, _ in measured]


def test_the_active_choice_proposes_new_valid_subnets_the_same_for_the_same_seed():
    def choice(seed):
        return ActiveChoice(space=SPACE, cost=partial(macs_of, SPACE), seed=seed)

    chosen = chosen_from(choice(0), START + ROUND + 4)
    assert len({arch.key for arch in chosen}) == len(chosen)
    assert all(SPACE.contains(arch) for arch in chosen)
    assert chosen[:START] == stratified_subnets(SPACE, START)
    assert chosen_from(choice(0), START + 5) == chosen[: START + 5]  # asking for more measures only the new ones
    assert chosen_from(choice(1), START + ROUND)[START:] != chosen[START : START + ROUND]


def test_the_active_choice_looks_where_subnets_beat_what_is_known(rng):
    measured = with_top1(stratified_subnets(SPACE, START))
    chosen = ActiveChoice(space=SPACE, cost=partial(macs_of, SPACE)).next(measured, ROUND)
    values = {arch.key: value for arch, value in with_top1(chosen)}
    front = [values[arch.key] for arch in chosen[:4]]  # the share of a round that looks for better ones comes first
    known = np.array([value for _, value in measured])
    costs = macs_of(SPACE, np.stack([SPACE.encode(arch) for arch, _ in measured]))
    own = macs_of(SPACE, np.stack([SPACE.encode(arch) for arch in chosen[:4]]))
    assert sum(value > known[costs <= cost].max(initial=0) for value, cost in zip(front, own, strict=True)) >= 2


def test_rows_from_elsewhere_count_and_are_not_proposed():
    archs = stratified_subnets(SPACE, 12)
    chosen = SpreadChoice(SPACE).next(with_top1(archs[3:7]), 8)
    assert chosen == [*archs[:3], *archs[7:12]]


@pytest.mark.parametrize("space", PRESETS.values(), ids=list(PRESETS))
def test_stratified_subnets_cover_macs_and_every_choice_evenly(space):
    many = stratified_subnets(space, 100)
    assert stratified_subnets(space, 12) == many[:12]
    genomes = np.stack([space.encode(arch) for arch in many])
    assert len(np.unique(genomes, axis=0)) == 100
    low, high = np.log(macs_of(space, np.stack([space.encode(space.smallest()), space.encode(space.largest())])))
    position = (np.log(macs_of(space, genomes)) - low) / (high - low)
    assert np.histogram(position, bins=4, range=(0, 1))[0].min() >= 20
    for column, gene in zip(genomes.T, space.genes, strict=True):
        counts = np.unique(column[column != SKIPPED], return_counts=True)[1]
        assert len(counts) == len(set(gene.choices))
        assert counts.min() >= (0.5 * counts.mean() if len(counts) < 8 else 1)
