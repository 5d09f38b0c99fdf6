import csv
from functools import lru_cache

import numpy as np
import pytest

from ofa_kit.arch.features import distinct_layers, key_at, macs_of, params_of, physical_costs
from ofa_kit.arch.layers import layers
from ofa_kit.arch.ofa_format import from_ofa_dict
from ofa_kit.arch.presets import PRESETS, preset
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.errors import TableError
from ofa_kit.predictors import scores
from ofa_kit.predictors.latency import LatencyPredictor
from tests.conftest import real_data

SPACE = preset("mbv3-small-images")
OFA = preset("ofa-mbv3-w1.0")


def block_times():
    """A device whose blocks take time by MACs and by being there at all."""
    times = {}
    for resolution in SPACE.resolutions:
        times |= {key: 0.01 + layer.macs / 1e8 for key, layer in distinct_layers(SPACE, resolution).items()}
    return times


def physical_ms(genomes):
    """A device that charges for blocks, multiply-adds, feature maps and weights."""
    costs = {name: cost.total(genomes) for name, cost in physical_costs(SPACE).items()}
    by_count = 0.02 + 0.01 * costs["blocks"] + 0.02 * costs["squeezes"]
    return by_count + costs["depthwise_macs"] / 1e8 + costs["wide_elements"] / 2e7 + costs["params"] / 1e8


def physically_measured(archs):
    latency_ms = physical_ms(np.stack([SPACE.encode(arch) for arch in archs]))
    return list(zip(archs, latency_ms, strict=True))


@lru_cache
def titan():
    """Subnets measured on a Titan RTX: genomes (N, length), and milliseconds (N,) by batch."""
    genomes, times = [], {1: [], 64: []}
    with real_data("ofa_mbv3_gpu_latency.csv").open() as file:
        for row in csv.DictReader(file):
            kernels, expands = ([int(c) for c in row[name]] for name in ("kernel_sizes", "expand_ratios"))
            values = {"ks": kernels, "e": expands, "d": [int(c) for c in row["depth"]], "r": int(row["resolution"])}
            genomes.append(OFA.encode(from_ofa_dict(OFA, values)))
            for batch, found in times.items():
                found.append(float(row[f"titan_rtx_{batch}_ms"]))
    return np.stack(genomes), {batch: np.array(found) for batch, found in times.items()}


def fitted(genomes, latency_ms):
    archs = [OFA.decode(genome) for genome in genomes]
    return LatencyPredictor.fit(OFA, {}, list(zip(archs, latency_ms, strict=True)))


@pytest.mark.parametrize(("scale", "constant", "per_layer"), [(0.8, 0, 0), (1.2, 0.05, 0), (0.9, 0.05, -0.004)])
def test_a_device_that_is_a_line_of_its_blocks_is_predicted_exactly(scale, constant, per_layer, rng):
    times = block_times()

    def true_ms(arch):
        net = layers(SPACE, arch)
        return scale * sum(times[layer.key] for layer in net) + constant + per_layer * len(net)

    predictor = LatencyPredictor.fit(SPACE, times, [(arch, true_ms(arch)) for arch in spread_subnets(SPACE, 20)])
    genomes = SPACE.sample_genomes(100, rng)
    expected = np.array([true_ms(SPACE.decode(genome)) for genome in genomes])
    np.testing.assert_allclose(predictor.predict_ms(genomes), expected, rtol=1e-6)
    assert predictor.held_out["mape"] < 1e-4


def test_whole_subnets_alone_are_enough(rng):
    predictor = LatencyPredictor.fit(SPACE, {}, physically_measured(spread_subnets(SPACE, 24)))
    genomes = SPACE.sample_genomes(10_000, rng)
    latency_ms, error_ms = predictor.predict(genomes)
    np.testing.assert_allclose(latency_ms, physical_ms(genomes), rtol=1e-3)
    assert latency_ms.shape == error_ms.shape == (10_000,)
    assert predictor.held_out["n"] == 24
    assert "block_sum" not in predictor.name


def test_a_block_that_was_never_measured_leaves_the_physical_model(rng):
    times = block_times()
    genomes = SPACE.sample_genomes(1000, rng)
    measured = physically_measured(spread_subnets(SPACE, 24))
    missing = next(key for key in times if key.startswith("inverted_residual"))
    without = LatencyPredictor.fit(SPACE, {k: ms for k, ms in times.items() if k != missing}, measured)
    alone = LatencyPredictor.fit(SPACE, {}, measured)
    np.testing.assert_array_equal(without.predict(genomes), alone.predict(genomes))
    assert np.isfinite(without.predict(genomes)).all()


def test_disturbed_measurements_move_no_prediction(rng):
    measured = physically_measured(spread_subnets(SPACE, 24))
    disturbed = [(arch, ms * (1.25 if index in (3, 11) else 1)) for index, (arch, ms) in enumerate(measured)]
    genomes = SPACE.sample_genomes(300, rng)
    found = LatencyPredictor.fit(SPACE, {}, disturbed).predict_ms(genomes)
    np.testing.assert_allclose(found, physical_ms(genomes), rtol=0.01)


def test_a_fast_subnet_counts_as_much_as_a_slow_one(rng):
    archs = spread_subnets(SPACE, 24)
    noise = np.exp(0.02 * rng.standard_normal(len(archs)))
    measured = [(arch, ms * factor) for (arch, ms), factor in zip(physically_measured(archs), noise, strict=True)]
    thousandfold = [(arch, 1000 * ms) for arch, ms in measured]
    genomes = SPACE.sample_genomes(300, rng)
    first, second = (LatencyPredictor.fit(SPACE, {}, rows) for rows in (measured, thousandfold))
    np.testing.assert_allclose(1000 * np.stack(first.predict(genomes)), second.predict(genomes), rtol=1e-6)


def test_the_physical_model_never_gives_time_back(rng):
    noise = np.exp(0.05 * rng.standard_normal(24))
    measured = [
        (arch, ms * factor)
        for (arch, ms), factor in zip(physically_measured(spread_subnets(SPACE, 24)), noise, strict=True)
    ]
    predictor = LatencyPredictor.fit(SPACE, {}, measured)
    latency_ms = predictor.predict_ms(SPACE.sample_genomes(1000, rng))
    ends = np.stack([SPACE.encode(SPACE.smallest()), SPACE.encode(SPACE.largest())])
    smallest, largest = predictor.predict_ms(ends)
    assert 0 < smallest <= latency_ms.min() <= latency_ms.max() <= largest


def test_a_time_of_one_resolution_comes_before_a_time_of_all(rng):
    times, resolution = block_times(), SPACE.resolutions[0]
    slow = {key_at(layer, resolution): 2 * times[key] for key, layer in distinct_layers(SPACE, resolution).items()}
    plain, special = (LatencyPredictor.sum_of_blocks(SPACE, known) for known in (times, times | slow))
    genomes = SPACE.sample_genomes(200, rng)
    factor = np.where(genomes[:, 0] == 0, 2, 1)
    np.testing.assert_allclose(special.predict_ms(genomes), factor * plain.predict_ms(genomes))


@pytest.mark.parametrize("count", [4, 5, 8, 9, 60])
def test_any_number_of_subnets_gives_finite_predictions_and_errors(count, rng):
    noise = np.exp(0.02 * rng.standard_normal(count))
    measured = [
        (arch, ms * factor)
        for (arch, ms), factor in zip(physically_measured(spread_subnets(SPACE, count)), noise, strict=True)
    ]
    genomes = SPACE.sample_genomes(300, rng)
    for times in ({}, block_times()):
        predictor = LatencyPredictor.fit(SPACE, times, measured)
        found = np.stack(predictor.predict(genomes))
        assert np.isfinite(found).all()
        assert (found > 0).all()
        assert set(predictor.held_out) == {"mape", "within_5", "within_10", "tau", "n"}


def test_too_few_measured_subnets_say_what_to_do():
    with pytest.raises(TableError, match="at least 4 measured subnets, found 2"):
        LatencyPredictor.fit(SPACE, block_times(), physically_measured(spread_subnets(SPACE, 2)))


@pytest.mark.parametrize("name", PRESETS)
def test_physical_costs_of_every_space_add_up(name, rng):
    space = preset(name)
    genomes = space.sample_genomes(50, rng)
    costs = {name: cost.total(genomes) for name, cost in physical_costs(space).items()}
    macs = costs["pointwise_macs"] + costs["depthwise_macs"] + costs["dense_macs"]
    np.testing.assert_array_equal(macs, macs_of(space, genomes))
    np.testing.assert_array_equal(costs["params"], params_of(space, genomes))
    counts = [len(layers(space, space.decode(genome))) for genome in genomes]
    np.testing.assert_array_equal(costs["layers"], counts)
    assert (costs["kernels"] >= 2 * costs["blocks"]).all()
    assert all((cost >= 0).all() for cost in costs.values())


@pytest.mark.parametrize(("batch", "most_mape"), [(64, 1.3), (1, 4.3)])
def test_a_real_gpu_is_predicted_from_twenty_subnets(batch, most_mape):
    genomes, times = titan()
    found, covered = [], []
    for draw in range(4):
        order = np.random.default_rng(draw).permutation(len(genomes))
        train, test = order[:20], order[20:]
        latency_ms, error_ms = fitted(genomes[train], times[batch][train]).predict(genomes[test])
        found.append(scores.mape(latency_ms, times[batch][test]))
        covered.append(np.mean(np.abs(latency_ms - times[batch][test]) <= error_ms))
    assert np.mean(found) <= most_mape
    assert 0.8 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("batch", [64, 1])
def test_outside_of_what_was_measured_the_error_is_wider_and_still_holds(batch):
    """From small inputs to large ones, and from networks of few MACs to those of many, and back."""
    genomes, times = titan()
    pixels, macs = np.array(OFA.resolutions)[genomes[:, 0]], macs_of(OFA, genomes)
    low, middle, high = np.quantile(macs, [0.25, 0.5, 0.75])
    splits = [(pixels <= 176, pixels >= 200), (pixels >= 176, pixels <= 148)]
    splits += [(macs < middle, macs > high), (macs > middle, macs < low)]
    for inside, outside in splits:
        rows = np.random.default_rng(0).permutation(np.flatnonzero(inside))
        predictor = fitted(genomes[rows[:24]], times[batch][rows[:24]])
        _, near_ms = predictor.predict(genomes[rows[24:]])
        latency_ms, far_ms = predictor.predict(genomes[outside])
        relative = np.median(far_ms / latency_ms) / np.median(near_ms / predictor.predict_ms(genomes[rows[24:]]))
        assert relative > 1.3
        assert np.mean(np.abs(latency_ms - times[batch][outside]) <= far_ms) >= 0.8
