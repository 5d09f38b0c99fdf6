"""Simple models of a space: tables of sums are exact, the knapsack is optimal, moves reach every neighbour."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.search.budget import Budget, Objective
from ofa_kit.search.climbing import climb
from ofa_kit.search.costs import elements_at_once, peak_memory_mb
from ofa_kit.search.knapsack import solve, solve_exactly
from ofa_kit.search.moves import moves_of
from ofa_kit.search.pareto import fronts
from ofa_kit.search.parts import parts_of, surroundings
from ofa_kit.search.relaxed import Costs, Surrogate

TINY = preset("mbv3-tiny")
SPACES = ("mbv3-tiny", "mbv3-small-images", "resnet-small-images", "bignas-small-images", "attentive-nas",
          "spos-small-images", "ofa-resnet50d")  # fmt: skip


@lru_cache
def everything():
    every = np.indices(TINY.choice_counts.tolist()).reshape(TINY.genome_length, -1).T
    return np.unique(TINY.canonical(every), axis=0)


def table_sum(parts, base, table, genomes):
    options = parts.options_of(genomes)
    values = table[np.arange(len(parts.parts)), np.maximum(options, 0)]
    return base[genomes[:, 0]] + np.where(options >= 0, values, 0).sum(axis=1)


@pytest.mark.parametrize("name", SPACES)
def test_parts_hold_the_whole_genome(name, rng):
    space = preset(name)
    parts, genomes = parts_of(space), space.sample_genomes(200, rng)
    np.testing.assert_array_equal(parts.genomes(genomes[:, 0], parts.options_of(genomes)), genomes)


def test_the_surroundings_of_any_genome_are_the_whole_space_where_values_are_sums(rng):
    parts = parts_of(TINY)
    table, base = rng.random((len(parts.parts), parts.most)), rng.random(len(TINY.resolutions))
    around = TINY.sample_genomes(5, rng)
    found = surroundings(parts, around, lambda genomes: table_sum(parts, base, table, genomes))
    for k in range(5):
        np.testing.assert_allclose(
            table_sum(parts, found.base[k], found.table[k], everything()), table_sum(parts, base, table, everything())
        )


def test_costs_that_are_sums_over_layers_are_exact(rng):
    space = preset("mbv3-small-images")
    costs = Costs.of(Objective(space, Budget(macs_m=2.0), lambda g: g[:, 0], lambda g: g[:, 0] + 1.0))
    genomes = space.sample_genomes(100, rng)
    for genome in genomes:
        found = table_sum(costs.parts, costs.base[0], costs.tables[0, genome[0]], genome[None])
        np.testing.assert_allclose(found, macs_of(space, genome[None]) / 2e6)


@pytest.mark.parametrize("seed", range(3))
def test_the_knapsack_is_the_best_of_all_subnets(seed):
    rng = np.random.default_rng(seed)
    parts = parts_of(TINY)
    shape = len(parts.parts), parts.most
    values, costs = rng.random(shape), rng.integers(1, 40, shape) / 100
    genomes = everything()[everything()[:, 0] == 0]
    zero = np.zeros(len(TINY.resolutions))
    worth, spent = (table_sum(parts, zero, table, genomes) for table in (values, costs))
    for budget in (0.5, 0.8, 1.2):
        best = worth[spent <= budget + 1e-9].max()
        exact = solve_exactly(parts, values, costs[None], np.array([budget]))
        dynamic = solve(parts, values[None], costs[None], np.array([budget]), 1000, up=True)
        found = parts.genomes(np.array([0]), dynamic.options(np.array([0]), np.array([1000])))
        assert table_sum(parts, zero, costs, found)[0] <= budget + 1e-9
        assert table_sum(parts, zero, values, found)[0] == pytest.approx(dynamic.best[0, -1], abs=1e-5)
        assert exact is not None
        assert exact[1] == pytest.approx(best)
        assert best >= dynamic.best[0, -1] - 1e-6 >= 0.95 * best


def test_the_bound_of_the_surrogate_holds_for_every_subnet_within_budget():
    def top1_of(genomes):
        return 50 + np.log(macs_of(TINY, genomes))

    goal = Objective(TINY, Budget(macs_m=0.3), top1_of, lambda g: macs_of(TINY, g))
    surrogate = Surrogate.fit(TINY, everything()[::7], top1_of(everything()[::7]))
    optima, bound = surrogate.optimum(Costs.of(goal))
    inside = everything()[goal.excess(everything()) == 0]
    assert bound == pytest.approx(surrogate.predict(inside).max())
    assert surrogate.predict(optima).max() == pytest.approx(bound)


def test_single_changes_are_all_the_neighbours(rng):
    space = replace(TINY, stages=TINY.stages)
    for genome in space.sample_genomes(5, rng):
        near = {row.tobytes() for row in moves_of(space).of(genome)[1]}
        apart = ((everything() != genome) & (everything() >= 0) & (genome >= 0)).sum(axis=1)
        same_depth = (everything()[:, list(space.depth_genes)] == genome[list(space.depth_genes)]).all(axis=1)
        assert {row.tobytes() for row in everything()[(apart == 1) & same_depth]} <= near
        assert genome.tobytes() not in near


def test_a_local_optimum_is_one(rng):
    taste = rng.normal(size=(TINY.genome_length, TINY.genome_length))

    def top1_of(genomes):
        return 50 + np.einsum("ni,ij,nj->n", genomes, taste, genomes) / 10

    goal = Objective(TINY, Budget(macs_m=0.2), top1_of, lambda g: macs_of(TINY, g))
    start = TINY.encode(TINY.smallest())
    end = climb(goal, start)[-1]
    moves = moves_of(TINY)
    changes, near = moves.of(end)
    pairs = [moves.apply(near, np.full(len(near), change)) for change in changes]
    assert goal.score(np.vstack([near, *pairs])).max() <= goal.score(end[None])[0] + 1e-9


def test_peak_memory_is_the_largest_step_of_the_lowering(rng):
    space = preset("spos-small-images")
    genomes = space.sample_genomes(20, rng)
    expected = [max(map(elements_at_once, layers(space, space.decode(genome)))) * 4e-6 for genome in genomes]
    np.testing.assert_allclose(peak_memory_mb(space, genomes), expected)


def test_fronts_are_numbered_from_those_that_nothing_beats():
    top1, cost = np.array([3.0, 2.0, 1.0, 2.5, 3.0]), np.array([3.0, 1.0, 2.0, 3.0, 3.0])
    np.testing.assert_array_equal(fronts(top1, cost), [0, 0, 1, 2, 1])
