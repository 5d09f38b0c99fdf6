import csv
from itertools import pairwise

import pytest

from ofa_kit.arch.layer import make_divisible
from ofa_kit.arch.layers import layers, macs, params
from ofa_kit.arch.ofa_format import from_ofa_dict
from ofa_kit.arch.presets import PRESETS, preset
from tests.conftest import real_data


def test_macs_and_params_equal_every_published_row():
    space = preset("ofa-mbv3-w1.0")
    compared = 0
    with real_data("ofa_mbv3_w10_imagenet_top1.csv").open() as file:
        for row in csv.DictReader(file):
            kernels, expands = ([int(c) for c in row[name]] for name in ("kernel_sizes", "expand_ratios"))
            depths = [int(c) for c in row["depth"]]
            values = {"ks": kernels, "e": expands, "d": depths, "r": int(row["resolution"])}
            arch = from_ofa_dict(space, values)
            assert params(space, arch) == int(row["params"])
            if int(row["macs"]):
                assert macs(space, arch) == int(row["macs"])
                compared += 1
    assert compared > 500


def test_channels_follow_the_published_rounding():
    base = (16, 24, 40, 80, 112, 160, 960, 1280)
    assert [make_divisible(channels * 1.2) for channels in base] == [24, 32, 48, 96, 136, 192, 1152, 1536]


@pytest.mark.parametrize("space", PRESETS.values(), ids=list(PRESETS))
def test_each_layer_takes_what_the_one_before_gives(space, rng):
    for _ in range(10):
        for before, after in pairwise(layers(space, space.sample(rng))):
            assert (after.in_channels, after.input_size) == (before.out_channels, before.output_size)


def test_other_families_have_the_published_size():
    resnet, proxyless, attentive = (preset(n) for n in ("ofa-resnet50d", "ofa-proxyless-w1.3", "attentive-nas"))
    assert params(resnet, resnet.largest()) == 48_105_992
    assert [stage.widths for stage in proxyless.stages] == [(32,), (56,), (104,), (128,), (248,), (416,)]
    ends = [macs(attentive, arch) / 1e6 for arch in (attentive.smallest(), attentive.largest())]
    assert [round(end, 1) for end in ends] == [203.4, 1939.3]
