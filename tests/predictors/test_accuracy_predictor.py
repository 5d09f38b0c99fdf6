import csv
import json

import numpy as np
import pytest

from ofa_kit.arch.features import accuracy_features, macs_of
from ofa_kit.arch.ofa_format import from_ofa_dict
from ofa_kit.arch.presets import PRESETS, preset
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.arch.single import only
from ofa_kit.errors import StaleTableError, TableError
from ofa_kit.predictors import accuracy, scores
from ofa_kit.predictors.accuracy import MINIMUM, AccuracyPredictor
from ofa_kit.predictors.accuracy_evidence import Design, Rows, misfit
from ofa_kit.predictors.accuracy_groups import feature_groups
from tests.conftest import real_data

SPACE = preset("mbv3-small-images")
TINY = preset("mbv3-tiny")


def planted(space, genomes):
    """Top-1 of choices that add up: each takes a share of what lacks to 95 %."""
    progress = (np.maximum(genomes, 0) / space.choice_counts).mean(axis=1)
    return 95 - 20 * np.exp(-3 * progress)


def measured(space, count, noise=0.05, seed=0):
    """Random subnets with planted top-1 and errors of `noise` points."""
    rng = np.random.default_rng(seed)
    genomes = space.sample_genomes(count, rng)
    top1 = planted(space, genomes) + noise * rng.normal(size=count)
    return [(space.decode(genome), value) for genome, value in zip(genomes, top1, strict=True)]


@pytest.fixture(scope="module")
def rows():
    return measured(SPACE, 40)


@pytest.fixture(scope="module")
def predictor(rows):
    return AccuracyPredictor.fit(SPACE, rows)


@pytest.fixture(scope="module")
def genomes():
    return SPACE.sample_genomes(200, np.random.default_rng(1))


def test_too_few_measured_subnets_say_what_to_do():
    with pytest.raises(TableError, match="ofa-kit measure-accuracy"):
        AccuracyPredictor.fit(SPACE, [(SPACE.largest(), 90.0)])


def test_choices_that_add_up_to_a_ceiling_are_found(predictor, genomes):
    predicted, true = predictor.predict_top1(genomes), planted(SPACE, genomes)
    assert scores.kendall_tau(predicted, true) > 0.93
    assert scores.rmse(predicted, true) < 0.2 * true.std()


def test_accuracy_that_follows_macs_is_learned_from_forty_subnets(genomes):
    def top1(genomes):
        return 70 + 5 * np.log(macs_of(SPACE, genomes) / 1e6)

    archs = spread_subnets(SPACE, 40)
    known = np.stack([SPACE.encode(arch) for arch in archs])
    predictor = AccuracyPredictor.fit(SPACE, list(zip(archs, top1(known), strict=True)))
    assert scores.kendall_tau(predictor.predict_top1(genomes), top1(genomes)) > 0.95


@pytest.mark.parametrize("interactions", [True, False])
def test_gradients_are_those_of_the_misfit(genomes, rng, interactions):
    top1 = rng.normal(size=30)
    design = Design(feature_groups(SPACE), interactions=interactions)
    rows = Rows(accuracy_features(SPACE, genomes[:30]), top1, 2 * rng.random(30))
    point = np.array([*rng.normal(-3, 1, len(design.groups)), -3.0, 0.3, -4.0, 0.4, 0.3])
    steps = 1e-5 * np.eye(len(point))
    rises = [
        misfit(design, point + step, rows, 0.8 * top1)[0] - misfit(design, point - step, rows, 0.8 * top1)[0]
        for step in steps
    ]
    np.testing.assert_allclose(misfit(design, point, rows, 0.8 * top1)[1], np.array(rises) / 2e-5, atol=1e-5)


def test_held_out_scores_tell_what_new_subnets_show(predictor):
    new = measured(SPACE, 300, seed=2)
    top1, half_width = predictor.predict(np.stack([SPACE.encode(arch) for arch, _ in new]))
    true = np.array([value for _, value in new])
    assert scores.rmse(top1, true) == pytest.approx(predictor.held_out["rmse"], rel=0.5)
    assert scores.kendall_tau(top1, true) == pytest.approx(predictor.held_out["tau"], abs=0.1)
    assert 0.8 < np.mean(np.abs(top1 - true) <= half_width) < 0.99
    assert predictor.held_out.keys() == {"rmse", "tau", "tau_top", "coverage", "n"}
    assert "of 40 measured: RMSE" in predictor.quality


def test_the_two_ways_to_predict_agree_whatever_the_order_of_the_population(predictor, genomes):
    top1, half_width = predictor.predict(genomes)
    order = np.random.default_rng(0).permutation(len(genomes))
    shuffled, shuffled_width = predictor.predict(genomes[order])
    np.testing.assert_allclose(predictor.predict_top1(genomes), top1, atol=1e-9)
    np.testing.assert_allclose(shuffled, top1[order], atol=1e-9)
    np.testing.assert_allclose(shuffled_width, half_width[order], atol=1e-9)
    assert [len(found) for found in predictor.predict(genomes[:0])] == [0, 0]


def test_the_order_of_the_measured_rows_decides_nothing(rows, genomes):
    errors = np.linspace(0.05, 0.5, len(rows))
    straight = AccuracyPredictor.fit(SPACE, rows, standard_errors=list(errors))
    backwards = AccuracyPredictor.fit(SPACE, rows[::-1], standard_errors=list(errors[::-1]))
    np.testing.assert_array_equal(np.stack(straight.predict(genomes)), np.stack(backwards.predict(genomes)))
    assert straight.held_out == backwards.held_out


def test_intervals_are_wider_where_nothing_was_measured(genomes):
    small = [row for row in measured(SPACE, 150) if all(stage.depth < 3 for stage in row[0].stages)][:30]
    predictor = AccuracyPredictor.fit(SPACE, small)
    near = predictor.predict(np.stack([SPACE.encode(arch) for arch, _ in small]))[1]
    far = predictor.predict(SPACE.encode(SPACE.largest())[None])[1]
    assert far[0] > 1.5 * near.max()


def test_noisier_rows_make_wider_intervals(predictor, genomes):
    noisy = AccuracyPredictor.fit(SPACE, measured(SPACE, 40, noise=0.5))
    assert noisy.predict(genomes)[1].mean() > 2 * predictor.predict(genomes)[1].mean()


@pytest.mark.parametrize("error", [0.01, 1.0])
def test_standard_errors_that_are_all_the_same_change_no_interval(rows, predictor, genomes, error):
    found = AccuracyPredictor.fit(SPACE, rows, standard_errors=[error] * len(rows)).predict(genomes)
    np.testing.assert_allclose(np.stack(found), np.stack(predictor.predict(genomes)), rtol=1e-6)


def test_a_row_that_is_known_to_be_noisy_is_trusted_less(rows, genomes):
    wrong = [(arch, value - 8 * (index % 10 == 0)) for index, (arch, value) in enumerate(rows)]
    errors = [8.0 if index % 10 == 0 else 0.05 for index in range(len(rows))]
    off = [
        scores.rmse(
            AccuracyPredictor.fit(SPACE, wrong, standard_errors=e).predict_top1(genomes), planted(SPACE, genomes)
        )
        for e in (None, errors)
    ]
    assert off[1] < off[0] / 2


def test_unknown_standard_errors_are_those_of_the_others():
    rows, genomes = measured(TINY, 10), TINY.sample_genomes(20, np.random.default_rng(1))
    found = [
        AccuracyPredictor.fit(TINY, rows, standard_errors=errors).predict_top1(genomes)
        for errors in ([0.2, np.nan] * 5, [0.2] * 10, [np.nan] * 10, None)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])


@pytest.mark.parametrize("space", PRESETS.values(), ids=lambda space: space.name)
def test_every_space_can_be_learned_from_as_few_rows_as_are_allowed(space):
    predictor = AccuracyPredictor.fit(space, measured(space, MINIMUM))
    top1, half_width = predictor.predict(space.sample_genomes(50, np.random.default_rng(1)))
    assert np.isfinite([top1, half_width]).all()
    assert ((top1 >= 0) & (top1 <= 100) & (half_width > 0)).all()


@pytest.mark.parametrize("value", [0.0, 90.1, 100.0])
def test_a_top1_that_is_always_the_same_is_predicted(value):
    predictor = AccuracyPredictor.fit(TINY, [(arch, value) for arch, _ in measured(TINY, 12)])
    top1, half_width = predictor.predict(TINY.sample_genomes(50, np.random.default_rng(1)))
    np.testing.assert_allclose(top1, value, atol=0.01)
    assert np.isfinite(half_width).all()


def test_a_perfect_top1_among_the_measured_is_no_obstacle():
    rows = [(arch, min(value + 10, 100.0)) for arch, value in measured(TINY, 40)]
    assert max(value for _, value in rows) == 100
    top1 = AccuracyPredictor.fit(TINY, rows).predict_top1(np.stack([TINY.encode(arch) for arch, _ in rows]))
    assert scores.rmse(top1, np.array([value for _, value in rows])) < 1


def test_subnets_measured_more_than_once_are_taken_as_they_are():
    rows = measured(TINY, 10)
    again = [(arch, value + 0.1) for arch, value in rows]
    top1 = AccuracyPredictor.fit(TINY, rows + again).predict_top1(np.stack([TINY.encode(arch) for arch, _ in rows]))
    np.testing.assert_allclose(top1, [value + 0.05 for _, value in rows], atol=0.5)


def test_a_space_of_one_architecture_predicts_the_mean():
    alone = only(TINY, TINY.largest())
    rows = [(alone.largest(), 90 + 0.1 * index) for index in range(MINIMUM)]
    top1, half_width = AccuracyPredictor.fit(alone, rows).predict(alone.encode(alone.largest())[None])
    assert top1[0] == pytest.approx(90.35, abs=0.05)
    assert half_width[0] > 0.2


def test_a_saved_predictor_predicts_the_same_without_what_it_was_learned_with(
    predictor, genomes, tmp_path, monkeypatch
):
    predictor.save(tmp_path / "accuracy.npz")
    monkeypatch.setattr(accuracy, "feature_groups", None)
    monkeypatch.setattr(accuracy, "fit_stack", None)
    loaded = AccuracyPredictor.load(tmp_path / "accuracy.npz", SPACE)
    np.testing.assert_allclose(np.stack(loaded.predict(genomes)), np.stack(predictor.predict(genomes)), atol=1e-9)
    np.testing.assert_allclose(loaded.predict_top1(genomes), predictor.predict_top1(genomes), atol=1e-9)
    assert (loaded.held_out, loaded.quality) == (predictor.held_out, predictor.quality)
    loaded.save(tmp_path / "again.npz")
    assert AccuracyPredictor.load(tmp_path / "again.npz", SPACE).held_out == predictor.held_out


def test_the_predictor_of_another_space_is_refused(predictor, tmp_path):
    predictor.save(tmp_path / "accuracy.npz")
    with pytest.raises(StaleTableError, match=r"predicts for space 'mbv3-small-images'.*asked for 'mbv3-tiny'"):
        AccuracyPredictor.load(tmp_path / "accuracy.npz", TINY)


def test_a_later_version_of_the_file_is_refused(predictor, tmp_path):
    path = tmp_path / "accuracy.npz"
    predictor.save(path)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["header"])) | {"version": 2}
    np.savez(path, **(arrays | {"header": np.array(json.dumps(header))}))
    with pytest.raises(TableError, match="version 2 of the format, this ofa-kit reads up to 1; update ofa-kit"):
        AccuracyPredictor.load(path, SPACE)


def test_damaged_files_are_refused_in_one_line(predictor, tmp_path):
    path = tmp_path / "accuracy.npz"
    predictor.save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", header=np.array("[]"))
    np.savez(tmp_path / "pickled.npz", header=np.array([{}], dtype=object))
    contents = [b"", b"top1\n90\n", whole[:-30], whole[: len(whole) // 2]]
    contents += [(tmp_path / name).read_bytes() for name in ("other.npz", "pickled.npz")]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(TableError, match="damaged") as refused:
            AccuracyPredictor.load(path, SPACE)
        assert "\n" not in str(refused.value)
    with pytest.raises(TableError, match="there is no accuracy predictor"):
        AccuracyPredictor.load(tmp_path / "none.npz", SPACE)


def test_no_changed_byte_changes_a_prediction_unnoticed(predictor, genomes, tmp_path):
    path = tmp_path / "accuracy.npz"
    predictor.save(path)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            top1 = AccuracyPredictor.load(path, SPACE).predict_top1(genomes)
        except TableError:
            refused += 1
        else:
            np.testing.assert_allclose(top1, predictor.predict_top1(genomes), atol=1e-9)
    assert refused > 40


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
    true = np.array([value for _, value in test])
    top1, half_width = AccuracyPredictor.fit(space, train).predict(genomes)
    assert scores.kendall_tau(top1, true) > max(0.92, scores.kendall_tau(macs_of(space, genomes), true))
    assert scores.rmse(top1, true) < 0.15
    assert 0.8 < np.mean(np.abs(top1 - true) <= half_width) < 0.98
