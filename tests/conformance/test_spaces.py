"""Every shipped space passes one list."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_kit.arch.features import accuracy_features, additive_cost, distinct_layers, macs_of, params_of
from ofa_kit.arch.genes import SKIPPED
from ofa_kit.arch.layers import layers, macs, params
from ofa_kit.arch.presets import PRESETS
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.arch.single import only

SPACES = pytest.mark.parametrize("space", PRESETS.values(), ids=list(PRESETS))
SEEDS = st.integers(0, 2**32 - 1)


@SPACES
@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_samples_mutants_and_children_are_contained_and_genomes_round_trip(space, seed):
    rng = np.random.default_rng(seed)
    one, other = space.sample(rng), space.sample(rng)
    for arch in (one, other, space.mutate(one, rng, 0.5), space.crossover(one, other, rng)):
        assert space.contains(arch)
        assert space.decode(space.encode(arch)) == arch
        genome = space.encode(arch)
        assert (space.canonical(genome[None])[0] == genome).all()


@SPACES
def test_the_same_seed_gives_the_same_samples(space):
    draws = [space.sample_genomes(20, np.random.default_rng(3)) for _ in range(2)]
    assert (draws[0] == draws[1]).all()


@SPACES
def test_smallest_and_largest_bound_macs_and_params(space, rng):
    genomes = space.sample_genomes(200, rng)
    costs = [(macs_of, macs), (params_of, params)]
    if any(gene.kind == "operation" for gene in space.genes):
        costs = costs[:1]  # an xception unit with a stride has fewer MACs and more parameters than a shuffle unit
    for cost, of_arch in costs:
        values = cost(space, genomes)
        assert of_arch(space, space.smallest()) <= values.min()
        assert values.max() <= of_arch(space, space.largest())


@SPACES
def test_population_costs_equal_the_lowering(space, rng):
    genomes = space.sample_genomes(50, rng)
    archs = [space.decode(genome) for genome in genomes]
    assert macs_of(space, genomes).tolist() == [macs(space, arch) for arch in archs]
    assert params_of(space, genomes).tolist() == [params(space, arch) for arch in archs]


@SPACES
def test_every_layer_of_every_sample_is_among_the_distinct_ones(space, rng):
    resolution = space.resolutions[0]
    known = distinct_layers(space, resolution)
    for genome in space.sample_genomes(50, rng):
        genome[0] = 0
        assert all(layer.key in known for layer in layers(space, space.decode(genome)))


def test_the_full_ofa_space_has_92_distinct_blocks_a_resolution_beside_stem_and_head():
    space = PRESETS["ofa-mbv3-w1.0"]
    blocks = [layer for layer in distinct_layers(space, 224).values() if layer.name.startswith("stage")]
    assert len(blocks) == 90


@SPACES
def test_a_layer_without_a_known_cost_makes_the_sum_unknown(space, rng):
    cost = additive_cost(space, lambda layer: float("nan") if layer.name == "classifier" else 1.0)
    assert np.isnan(cost.total(space.sample_genomes(5, rng))).all()


@SPACES
def test_features_are_finite_and_ignore_skipped_blocks(space, rng):
    genomes = space.sample_genomes(30, rng)
    features = accuracy_features(space, genomes)
    assert np.isfinite(features).all()
    chosen = features[:, : int(space.choice_counts.sum())].sum(1)
    assert chosen.tolist() == (genomes != SKIPPED).sum(1).tolist()


@SPACES
def test_measured_subnets_are_spread_and_do_not_depend_on_how_many_are_asked_for(space):
    many = spread_subnets(space, 40)
    assert spread_subnets(space, 12) == many[:12]
    assert len({arch.key for arch in many}) == 40
    low, high = macs(space, space.smallest()), macs(space, space.largest())
    position = np.log([macs(space, arch) / low for arch in many]) / np.log(high / low)
    assert np.histogram(position, bins=4, range=(0, 1))[0].min() >= 5


def test_the_size_of_a_small_space_is_the_number_of_its_members():
    space = PRESETS["mbv3-tiny"]
    members = list(islice(space.iterate(), 20_000))
    assert len(members) == space.size() == len({arch.key for arch in members})


@SPACES
def test_the_space_of_one_architecture_has_its_layers(space, rng):
    for arch in (space.smallest(), space.largest(), space.sample(rng)):
        alone = only(space, arch)
        assert (alone.size(), alone.largest()) == (1, arch)
        assert layers(alone, arch) == layers(space, arch)


def test_other_images_make_another_space():
    space = PRESETS["mbv3-tiny"]
    other = space.adapted(in_channels=3, num_classes=5)
    assert (other.name, space.adapted(in_channels=1, num_classes=10)) == ("mbv3-tiny-3x5", space)
    assert other.fingerprint != space.fingerprint
