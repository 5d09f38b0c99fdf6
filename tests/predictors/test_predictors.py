import csv

import numpy as np
import pytest

from ofa_kit.arch.features import distinct_layers, macs_of
from ofa_kit.arch.layers import layers
from ofa_kit.arch.ofa_format import from_ofa_dict
from ofa_kit.arch.presets import preset
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.errors import TableError
from ofa_kit.predictors import scores
from ofa_kit.predictors.accuracy import AccuracyPredictor
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.predictors.latency import LatencyPredictor
from tests.conftest import real_data

SPACE = preset("mbv3-small-images")


def block_times():
    """A device whose blocks take time by MACs and by being there at all."""
    times = {}
    for resolution in SPACE.resolutions:
        times |= {key: 0.01 + layer.macs / 1e8 for key, layer in distinct_layers(SPACE, resolution).items()}
    return times


@pytest.mark.parametrize(("scale", "constant", "per_layer"), [(0.8, 0, 0), (1.2, 0.05, 0), (0.9, 0.05, -0.004)])
def test_a_device_that_is_a_line_of_its_blocks_is_predicted_exactly(scale, constant, per_layer):
    times = block_times()

    def true_ms(arch):
        net = layers(SPACE, arch)
        return scale * sum(times[layer.key] for layer in net) + constant + per_layer * len(net)

    predictor = LatencyPredictor.fit(SPACE, times, [(arch, true_ms(arch)) for arch in spread_subnets(SPACE, 20)])
    genomes = SPACE.sample_genomes(100, np.random.default_rng(0))
    expected = np.array([true_ms(SPACE.decode(genome)) for genome in genomes])
    np.testing.assert_allclose(predictor.predict_ms(genomes), expected, rtol=1e-6)
    assert predictor.held_out["mape"] < 1e-4


def test_a_block_that_was_never_measured_makes_its_subnets_infinitely_slow():
    times = block_times()
    resolution = SPACE.resolutions[-1]
    measured = [arch for arch in spread_subnets(SPACE, 60) if arch.resolution != resolution]
    missing = distinct_layers(SPACE, resolution).keys() - distinct_layers(SPACE, SPACE.resolutions[0]).keys()
    rest = {key: ms for key, ms in times.items() if key not in missing}
    measured = [arch for arch in measured if all(layer.key in rest for layer in layers(SPACE, arch))]
    predictor = LatencyPredictor.fit(SPACE, rest, [(arch, 1.0) for arch in measured])
    genomes = SPACE.sample_genomes(200, np.random.default_rng(0))
    at_missing = genomes[:, 0] == len(SPACE.resolutions) - 1
    assert np.isinf(predictor.predict_ms(genomes)[at_missing]).all()


def test_too_few_measured_subnets_say_what_to_do():
    with pytest.raises(TableError, match="at least 4 measured subnets, found 2"):
        LatencyPredictor.fit(SPACE, block_times(), [(arch, 1.0) for arch in spread_subnets(SPACE, 2)])
    with pytest.raises(TableError, match="ofa-kit measure-accuracy"):
        AccuracyPredictor.fit(SPACE, [(SPACE.largest(), 90.0)])


def test_accuracy_that_follows_macs_is_learned_from_forty_subnets():
    def top1(genomes):
        return 70 + 5 * np.log(macs_of(SPACE, genomes) / 1e6)

    archs = spread_subnets(SPACE, 40)
    known = np.stack([SPACE.encode(arch) for arch in archs])
    predictor = AccuracyPredictor.fit(SPACE, list(zip(archs, top1(known), strict=True)))
    genomes = SPACE.sample_genomes(300, np.random.default_rng(0))
    assert scores.kendall_tau(predictor.predict_top1(genomes), top1(genomes)) > 0.9


def test_real_imagenet_accuracies_are_predicted_better_than_by_macs_alone():
    space = preset("ofa-mbv3-w1.0")
    rows = []
    with real_data("ofa_mbv3_w10_imagenet_top1.csv").open() as file:
        for row in csv.DictReader(file):
            kernels, expands = ([int(c) for c in row[name]] for name in ("kernel_sizes", "expand_ratios"))
            values = {"ks": kernels, "e": expands, "d": [int(c) for c in row["depth"]], "r": int(row["resolution"])}
            rows.append((from_ofa_dict(space, values), float(row["top1_percent"])))
    order = np.random.default_rng(0).permutation(len(rows))
    train, test = [rows[i] for i in order[:100]], [rows[i] for i in order[100:400]]
    genomes = np.stack([space.encode(arch) for arch, _ in test])
    top1 = np.array([value for _, value in test])
    tau = scores.kendall_tau(AccuracyPredictor.fit(space, train).predict_top1(genomes), top1)
    assert tau > max(0.84, scores.kendall_tau(macs_of(space, genomes), top1))


def test_accuracy_rows_of_other_weights_stay_but_do_not_count(tmp_path, rng):
    path = tmp_path / "accuracy.csv"
    arch = SPACE.sample(rng)
    facts = {"images": 10, "calibration_images": 10, "measured_at": "2026-01-01T00:00:00Z"}
    AccuracyTable.open(path, "old").add(arch, 50.0, **facts)
    table = AccuracyTable.open(path, "new")
    assert table.rows == {}
    table.add(arch, 60.0, **facts)
    table.add(arch, 61.0, **facts)
    assert AccuracyTable.open(path, "new").rows == {arch.key: (arch, 60.0)}
    assert len(path.read_text().splitlines()) == 3
