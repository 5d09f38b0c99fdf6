import csv

import numpy as np
import pytest

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.ofa_format import from_ofa_dict
from ofa_kit.arch.presets import preset
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.errors import TableError
from ofa_kit.predictors import scores
from ofa_kit.predictors.accuracy import AccuracyPredictor
from ofa_kit.predictors.accuracy_table import AccuracyTable
from tests.conftest import real_data

SPACE = preset("mbv3-small-images")


def test_too_few_measured_subnets_say_what_to_do():
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
