"""MIT's net.config: round trips, old names, defaults, and what is said of other networks."""

import copy
import json

import pytest

from ofa_kit.arch.layers import layers
from ofa_kit.arch.ofa_net_config import OFA_SPACES, arch_of_net_config, net_config
from ofa_kit.arch.presets import preset
from ofa_kit.errors import WeightsError


def older(value):
    """Rename as MIT's first files do, and leave out what they did not have."""
    names = {"ResidualBlock": "MobileInvertedResidualBlock", "MBConvLayer": "MBInvertedConvLayer"}
    if isinstance(value, list):
        return [older(item) for item in value]
    if not isinstance(value, dict):
        return names.get(value, value) if isinstance(value, str) else value
    absent = {"groups", "ws_eps", "dilation", "has_shuffle"}
    found = {key: older(item) for key, item in value.items() if key not in absent}
    if found.get("name") == "MobileInvertedResidualBlock":
        found["mobile_inverted_conv"] = found.pop("conv")
    return found


@pytest.mark.parametrize("name", OFA_SPACES)
def test_architectures_return_from_net_config(name, rng):
    space = preset(name).adapted(in_channels=3, num_classes=12)
    for _ in range(30):
        arch = space.sample(rng)
        config = json.loads(json.dumps(net_config(space, arch)))
        found_space, found = arch_of_net_config(config, arch.resolution)
        assert (found_space, found) == (space, arch)
        assert layers(found_space, found) == layers(space, arch)


@pytest.mark.parametrize("name", OFA_SPACES)
def test_older_files_are_read(name, rng):
    space = preset(name)
    for _ in range(5):
        arch = space.sample(rng)
        assert arch_of_net_config(older(net_config(space, arch)), arch.resolution) == (space, arch)


def test_hidden_channels_may_follow_from_the_expand_ratio(rng):
    space = preset("ofa-mbv3-w1.0")
    arch = space.sample(rng)
    config = net_config(space, arch)
    for block in config["blocks"]:
        block["conv"]["mid_channels"] = None
    assert arch_of_net_config(config, arch.resolution) == (space, arch)


def test_a_resolution_beyond_the_space_is_added_to_it():
    space = preset("ofa-mbv3-w1.0")
    found, arch = arch_of_net_config(net_config(space, space.largest()), 236)
    assert (arch.resolution, max(found.resolutions)) == (236, 236)
    assert found.contains(arch)


def changed(config, path, value):
    found = copy.deepcopy(config)
    *owners, last = path
    place = found
    for key in owners:
        place = place[key]
    place[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["blocks", 3, "conv", "kernel_size"], 9, "blocks.3.conv.kernel_size is 9, in 'ofa-mbv3-w1.0' 7"),
        (["blocks", 3, "conv", "mid_channels"], 100, "blocks.3.conv.mid_channels is 100, in 'ofa-mbv3-w1.0' 96"),
        (["blocks", 3, "shortcut"], None, "blocks.3.shortcut is False, in 'ofa-mbv3-w1.0' True"),
        (["blocks", 5, "conv", "act_func"], "h_swish", "blocks.5.conv.act_func is h_swish, in 'ofa-mbv3-w1.0' relu"),
        (["first_conv", "out_channels"], 32, "first_conv.out_channels is 32, in 'ofa-mbv3-w1.0' 16"),
        (["bn", "eps"], 1e-3, "bn.eps is 0.001, in 'ofa-mbv3-w1.0' 1e-05"),
        (["bn", "ws_eps"], 1e-5, "bn.ws_eps is 1e-05, in 'ofa-mbv3-w1.0' None"),
        (["final_expand_layer"], None, "final_expand_layer.kernel_size is absent"),
        (["name"], "MobileNetV5", "the class is 'MobileNetV5'"),
        (["blocks", 3, "conv", "name"], "LSTM", "unknown layer 'LSTM'"),
        (["blocks", 3], None, "no net.config of MIT's"),
        (["classifier"], [], "no net.config of MIT's"),
    ],
)
def test_what_differs_is_said(path, value, says):
    space = preset("ofa-mbv3-w1.0")
    config = changed(net_config(space, space.largest()), path, value)
    with pytest.raises(WeightsError) as refused:
        arch_of_net_config(config, 224)
    assert says in str(refused.value)


def test_too_many_blocks_are_listed():
    space = preset("ofa-proxyless-w1.3")
    config = net_config(space, space.largest())
    config["blocks"].append(config["blocks"][-1])
    with pytest.raises(WeightsError, match=r"blocks.22.shortcut is False, in 'ofa-proxyless-w1.3' absent"):
        arch_of_net_config(config, 224)


def test_a_space_that_mit_does_not_have_has_no_net_config():
    space = preset("mbv3-tiny")
    with pytest.raises(WeightsError, match="no space 'mbv3-tiny'"):
        net_config(space, space.largest())
