import numpy as np
import pytest

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.presets import preset
from ofa_kit.predictors.effects import main_effects

SPACE = preset("mbv3-small-images")
ENDS = np.stack([SPACE.encode(SPACE.smallest()), SPACE.encode(SPACE.largest())])


def additive(genomes):
    """Top-1 that resolution and the depth of the second stage decide, each on its own."""
    depth = SPACE.positions["depth", 1, 0]
    return 60 + 3 * genomes[:, 0] + np.array([0.0, 0.5, 0.6])[genomes[:, depth]]


def named(effects, name):
    return next(effect for effect in effects if effect.name == name)


def test_effects_of_separate_choices_are_what_they_add():
    effects = main_effects(SPACE, additive, ENDS)
    assert [effect.name for effect in effects[:2]] == ["resolution", "depth, stage 2"]
    assert effects[0].points == pytest.approx(3 * np.arange(4) - 4.5)
    assert effects[1].points == pytest.approx(np.array([0, 0.5, 0.6]) - 1.1 / 3)
    assert max(effect.span for effect in effects[2:]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["mbv3-small-images", "ofa-resnet50d", "attentive-nas"])
def test_every_choice_has_an_effect_and_only_networks_of_the_space_are_predicted(name):
    space = preset(name)

    def top1(genomes):
        assert np.array_equal(space.canonical(genomes), genomes)
        assert space.contains(space.decode(genomes[0]))
        return np.log(macs_of(space, genomes))

    effects = main_effects(space, top1, space.sample_genomes(3, np.random.default_rng(0)))
    kinds = {gene.kind for gene in space.genes if len(gene.choices) > 1}
    assert {effect.name.split(",")[0].split(" ")[0] for effect in effects} == {k.split("_")[0] for k in kinds}
    for effect in effects:
        assert effect.points.sum() == pytest.approx(0, abs=1e-6)
        assert np.all(np.diff(effect.macs_m) > 0)  # more of anything costs more
    spans = [effect.span for effect in effects]
    assert spans == sorted(spans, reverse=True)


def test_standard_errors_of_an_average_are_the_textbook_ones():
    slopes = np.array([2.0, 3.0, 5.0, 4.0, 1.0])  # what five groups of measured subnets say a resolution step gives

    def with_slope(slope):
        return lambda genomes: slope * genomes[:, 0]

    refits = [with_slope(np.delete(slopes, group).mean()) for group in range(len(slopes))]
    effects = main_effects(SPACE, with_slope(slopes.mean()), ENDS, refits)
    of_slope = slopes.std(ddof=1) / np.sqrt(len(slopes))
    assert named(effects, "resolution").standard_errors == pytest.approx(of_slope * np.abs(np.arange(4) - 1.5))
    assert named(effects, "depth, stage 1").standard_errors == pytest.approx(0, abs=1e-9)


def test_effects_say_how_many_measured_subnets_stand_behind_them():
    rows = named(main_effects(SPACE, additive, ENDS), "resolution").rows
    assert rows == (1, 0, 0, 1)
    kernels = named(main_effects(SPACE, additive, np.repeat(ENDS, 3, axis=0)), "kernel size, stage 2")
    assert (kernels.choices, kernels.rows) == ((3, 5, 7), (3, 0, 3))
    assert np.isnan(kernels.standard_errors).all()  # no refits were given
