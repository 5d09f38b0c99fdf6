from ofa_kit.arch.presets import preset
from ofa_kit.predictors.accuracy_table import AccuracyTable

SPACE = preset("mbv3-small-images")


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
