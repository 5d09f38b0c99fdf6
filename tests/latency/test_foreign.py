import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import yaml

from ofa_kit.arch.ofa_format import to_ofa_dict
from ofa_kit.arch.presets import preset
from ofa_kit.commands.profile import open_profiled
from ofa_kit.errors import TableError
from ofa_kit.latency.foreign import import_mit_tables, imported_profile
from ofa_kit.latency.table import LatencyTable
from tests.conftest import real_data

SPACE = preset("ofa-mbv3-w1.2")
RESOLUTIONS = (160, 176, 192, 208, 224)


def file_of(resolution):
    return real_data(f"ofa_note10/{resolution}_lookup_table.yaml")


@lru_cache
def entries_of(resolution):
    return yaml.safe_load(file_of(resolution).read_text())


def mit_latency_ms(values):
    """MIT's formula: walk the {ks, e, d, r} dictionary and look up one entry after the other."""
    (size,) = values["r"]
    entries = entries_of(size)

    def look_up(kind, before, after, **facts):
        words = [kind, f"input:{'x'.join(map(str, before))}", f"output:{'x'.join(map(str, after))}"]
        return entries["-".join(words + [f"{name}:{fact}" for name, fact in facts.items()])]["mean"]

    total = look_up("Conv", [size, size, 3], [(size + 1) // 2] * 2 + [24])
    size, width = (size + 1) // 2, 24
    flat = [size, size, 24]
    total += look_up("expanded_conv", flat, flat, expand=24, kernel=3, stride=1, idskip=1, se=0, hs=0)
    for index in range(20):
        stage, block = divmod(index, 4)
        if block >= values["d"][stage]:
            continue
        stride = (2, 2, 2, 1, 2)[stage] if block == 0 else 1
        after, smaller = (32, 48, 96, 136, 192)[stage], int((size - 1) / stride + 1)
        total += look_up(
            "expanded_conv", [size, size, width], [smaller, smaller, after],
            expand=round(width * values["e"][index]), kernel=values["ks"][index], stride=stride,
            idskip=int(block > 0), se=int(stage in (1, 3, 4)), hs=int(stage >= 2),
        )  # fmt: skip
        size, width = smaller, after
    total += look_up("Conv_1", [size, size, 192], [size, size, 1152])
    total += look_up("AvgPool2D", [size, size, 1152], [1, 1, 1152])
    return total + look_up("Conv_2", [1, 1, 1152], [1, 1, 1536]) + look_up("Logits", [1, 1, 1536], [1000])


def test_imported_tables_say_what_mit_says(tmp_path, rng):
    import_mit_tables([file_of(r) for r in RESOLUTIONS], tmp_path, "note10", SPACE)
    predictor = open_profiled(imported_profile("note10"), SPACE, tmp_path).predictor
    genomes = replace(SPACE, resolutions=RESOLUTIONS).sample_genomes(1000, rng)
    genomes[:, 0] = np.array([SPACE.resolutions.index(r) for r in RESOLUTIONS])[genomes[:, 0]]
    expected = [mit_latency_ms(to_ofa_dict(SPACE, SPACE.decode(genome))) for genome in genomes]
    latency_ms, error_ms = predictor.predict(genomes)
    np.testing.assert_allclose(latency_ms, expected, rtol=0, atol=1e-9)
    assert np.isnan(error_ms).all()
    assert (predictor.held_out, predictor.quality) == ({}, "not calibrated: imported table")
    genomes[:, 0] = SPACE.resolutions.index(164)
    assert np.isinf(predictor.predict_ms(genomes)).all()


def test_resolutions_may_come_one_after_the_other(tmp_path):
    import_mit_tables([file_of(160)], tmp_path, "note10", SPACE)
    table = import_mit_tables([file_of(164), file_of(160)], tmp_path, "note10", SPACE)
    again = LatencyTable.open(tmp_path, imported_profile("note10"), SPACE)
    both = import_mit_tables([file_of(160), file_of(164)], tmp_path / "at_once", "note10", SPACE)
    assert again.blocks == table.blocks == both.blocks
    sources = json.loads(table.path.with_suffix(".json").read_text())["imported_from"]
    assert sorted(sources) == ["160_lookup_table.yaml", "164_lookup_table.yaml"]


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path):
    entries = dict(entries_of(160))
    missing = next(name for name in entries if name.startswith("expanded_conv-input:10x10x96"))
    entries["Swish-input:1x1x9-output:9"] = entries.pop(missing)
    path = tmp_path / "160.yaml"
    path.write_text(yaml.safe_dump(entries))
    with pytest.raises(TableError, match=f"lacks 1 entries .*{missing}.*1 entries .*Swish-input:1x1x9"):
        import_mit_tables([path], tmp_path / "tables", "note10", SPACE)
    with pytest.raises(TableError, match=r"lacks .* 'ofa-mbv3-w1.0' needs: AvgPool2D-input:5x5x960"):
        import_mit_tables([file_of(160)], tmp_path / "tables", "note10", preset("ofa-mbv3-w1.0"))
    with pytest.raises(TableError, match="second table of resolution 160"):
        import_mit_tables([file_of(160), file_of(160)], tmp_path / "tables", "note10", SPACE)
    path.write_text(yaml.safe_dump({**entries_of(160), missing: {"mean": 0}}))
    with pytest.raises(TableError, match=f"`mean` above 0 ms .* in every entry, not so in {missing}"):
        import_mit_tables([path], tmp_path / "tables", "note10", SPACE)
    assert not (tmp_path / "tables").exists()


def test_another_device_under_the_same_name_is_refused(tmp_path):
    import_mit_tables([file_of(160)], tmp_path, "note10", SPACE)
    path = tmp_path / "160.yaml"
    path.write_text(yaml.safe_dump({name: {"mean": 2 * entry["mean"]} for name, entry in entries_of(160).items()}))
    with pytest.raises(TableError, match=r"has other times for .* choose another device name"):
        import_mit_tables([path], tmp_path, "note10", SPACE)
    with pytest.raises(TableError, match="no table of MIT's"):
        import_mit_tables([real_yaml(tmp_path)], tmp_path, "note10", SPACE)


def real_yaml(folder):
    path = folder / "else.yaml"
    path.write_text("first: {mean: 1.0}\n")
    return path
