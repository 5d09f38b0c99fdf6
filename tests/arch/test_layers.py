import csv
from itertools import pairwise

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import layers, macs, make_divisible, params
from ofa_kit.arch.presets import preset
from tests.conftest import real_data


def test_macs_and_params_equal_every_published_row():
    space = preset("ofa-mbv3-w1.0")
    widths = tuple(stage.width for stage in space.stages)
    compared = 0
    with real_data("ofa_mbv3_w10_imagenet_top1.csv").open() as file:
        for row in csv.DictReader(file):
            kernels, expands = ([int(c) for c in row[name]] for name in ("kernel_sizes", "expand_ratios"))
            depths = [int(c) for c in row["depth"]]
            values = {"ks": kernels, "e": expands, "d": depths, "r": int(row["resolution"])}
            arch = ArchConfig.from_ofa_dict(values, widths)
            assert params(space, arch) == int(row["params"])
            if int(row["macs"]):
                assert macs(space, arch) == int(row["macs"])
                compared += 1
    assert compared > 500


def test_channels_follow_the_published_rounding():
    base = (16, 24, 40, 80, 112, 160, 960, 1280)
    assert [make_divisible(channels * 1.2) for channels in base] == [24, 32, 48, 96, 136, 192, 1152, 1536]


def test_each_layer_takes_what_the_one_before_gives(rng):
    for name in ("ofa-mbv3-w1.0", "mbv3-small-images", "mbv3-tiny"):
        space = preset(name)
        net = layers(space, space.sample(rng))
        for before, after in pairwise(net):
            assert after.in_channels == before.out_channels
            if after.op not in ("linear",):
                assert after.input_size == before.output_size
