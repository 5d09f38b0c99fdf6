import pytest

from ofa_kit.arch.config import ArchConfig, StageConfig
from ofa_kit.arch.ofa_format import from_ofa_dict, to_ofa_dict
from ofa_kit.arch.presets import PRESETS
from ofa_kit.errors import TableError


@pytest.mark.parametrize("space", PRESETS.values(), ids=list(PRESETS))
def test_csv_rows_round_trip(space, rng):
    for _ in range(50):
        arch = space.sample(rng)
        assert ArchConfig.from_row(arch.to_row()) == arch


def test_equal_networks_have_equal_keys_and_different_ones_differ(rng):
    space = PRESETS["mbv3-small-images"]
    archs = {space.sample(rng) for _ in range(500)}
    assert len({arch.key for arch in archs}) == len(archs)
    arch = space.sample(rng)
    assert ArchConfig.from_row(arch.to_row()).key == arch.key


@pytest.mark.parametrize("name", ["ofa-mbv3-w1.2", "ofa-proxyless-w1.3", "ofa-resnet50d"])
def test_ofa_dictionaries_round_trip(name, rng):
    space = PRESETS[name]
    for _ in range(50):
        arch = space.sample(rng)
        assert from_ofa_dict(space, to_ofa_dict(space, arch)) == arch


def test_an_ofa_dictionary_that_lacks_something_or_is_of_another_space_is_refused():
    space = PRESETS["ofa-mbv3-w1.2"]
    values = to_ofa_dict(space, space.largest())
    with pytest.raises(ValueError, match="needs ks, d, e, r; missing: e"):
        from_ofa_dict(space, {key: value for key, value in values.items() if key != "e"})
    with pytest.raises(ValueError, match="is not in the space"):
        from_ofa_dict(space, values | {"r": 100})


def test_a_stage_without_blocks_is_refused():
    with pytest.raises(ValueError, match="one kernel_size and one expand_ratio"):
        StageConfig(24, (), ())


def test_a_damaged_row_says_what_is_wrong():
    row = PRESETS["mbv3-tiny"].largest().to_row()
    with pytest.raises(TableError, match="no architecture in the table row"):
        ArchConfig.from_row(row | {"kernel_sizes": "3 x"})
