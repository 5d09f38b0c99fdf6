"""Weights of MIT's once-for-all: round trips, old names, strictness, and files that would run code."""

import os

import pytest
import torch

from ofa_kit.arch.presets import preset
from ofa_kit.errors import WeightsError
from ofa_kit.supernet.mit_weights import images_and_classes, load_weights, mit_state, read_weights, save_weights
from ofa_kit.supernet.subnet import Subnet, extract
from ofa_kit.supernet.supernet import Supernet

FAMILIES = ["ofa-mbv3-w1.0", "ofa-proxyless-w1.3", "ofa-resnet50d"]


@pytest.fixture(scope="module")
def nets():
    """A supernet of each family whose every tensor has values of its own; made when asked for."""
    made = {}

    def net(name):
        if name not in made:
            made[name] = Supernet(preset(name).adapted(in_channels=3, num_classes=10)).eval()
            fill(made[name], seed=1)
        return made[name]

    return net


def fill(net, seed):
    generator = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.random_(1, 1000, generator=generator)


def snapshot(net):
    return {key: tensor.clone() for key, tensor in net.state_dict().items()}


def zero(net):
    for tensor in net.state_dict().values():
        tensor.zero_()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def older(name):
    """Write a name of today as MIT's first files did: blocks hold a mobile_inverted_conv, nothing is wrapped."""
    if name.startswith("blocks."):
        name = name.replace(".conv.", ".mobile_inverted_conv.", 1)
    for part in ("conv", "bn", "linear"):
        name = name.replace(f".{part}.{part}.", f".{part}.")
    return name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_supernet_returns_from_mits_names_bit_equal(name, nets):
    net = nets(name)
    before, state = snapshot(net), mit_state(net)
    assert len(state) == len(before)
    zero(net)
    load_weights(net, state, "memory")
    assert equal(snapshot(net), before)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_subnet_returns_from_mits_names_bit_equal(name, nets, rng):
    for _ in range(3):
        subnet = extract(nets(name), nets(name).space.sample(rng))
        copy = Subnet(subnet.space, subnet.arch)
        load_weights(copy, mit_state(subnet), "memory")
        assert equal(snapshot(copy), snapshot(subnet))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "ofa-mbv3-w1.0",
            [
                "first_conv.conv.weight",
                "blocks.0.conv.depth_conv.conv.weight",
                "blocks.0.conv.point_linear.bn.running_var",
                "blocks.20.conv.inverted_bottleneck.conv.conv.weight",
                "blocks.20.conv.depth_conv.conv.7to5_matrix",
                "blocks.20.conv.depth_conv.conv.5to3_matrix",
                "blocks.20.conv.depth_conv.bn.bn.running_mean",
                "blocks.20.conv.depth_conv.se.fc.reduce.bias",
                "final_expand_layer.bn.num_batches_tracked",
                "feature_mix_layer.conv.weight",
                "classifier.linear.bias",
            ],
        ),
        ("ofa-proxyless-w1.3", ["blocks.21.conv.point_linear.conv.conv.weight", "feature_mix_layer.bn.weight"]),
        (
            "ofa-resnet50d",
            [
                "input_stem.0.conv.conv.weight",
                "input_stem.1.conv.conv.conv.weight",
                "input_stem.1.conv.bn.bn.bias",
                "blocks.0.downsample.conv.conv.weight",
                "blocks.17.conv3.bn.bn.weight",
                "classifier.linear.linear.weight",
            ],
        ),
    ],
)
def test_names_are_those_of_mits_package(name, keys, nets):
    state = mit_state(nets(name))
    assert [key for key in keys if key not in state] == []
    assert len(state) == {"ofa-mbv3-w1.0": 475, "ofa-proxyless-w1.3": 446}.get(name, len(state))


def test_a_resnet_without_its_residual_stem_counts_the_stem_without_gap(nets):
    net = nets("ofa-resnet50d")
    state = mit_state(extract(net, net.space.smallest()))
    assert {key.rsplit(".", 1)[0] for key in state if key.startswith("input_stem")} == {
        *("input_stem.0.conv", "input_stem.0.bn", "input_stem.1.conv", "input_stem.1.bn")
    }


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_older_names_without_counters_are_read(name, prefix, nets):
    net = nets(name)
    before = snapshot(net)
    state = {prefix + older(key): t for key, t in mit_state(net).items() if not key.endswith("num_batches_tracked")}
    assert images_and_classes(state, "memory") == (3, 10)
    zero(net)
    load_weights(net, state, "memory")
    after = snapshot(net)
    assert all(torch.equal(after[key], t) for key, t in before.items() if not key.endswith("num_batches_tracked"))


def test_every_problem_is_listed_and_nothing_is_loaded(nets):
    net = nets("ofa-mbv3-w1.0")
    before, state = snapshot(net), mit_state(net)
    del state["first_conv.conv.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["classifier.linear.bias"] = torch.zeros(7)
    state["feature_mix_layer.conv.weight"] = state["feature_mix_layer.conv.weight"].to(torch.int8)
    with pytest.raises(WeightsError) as refused:
        load_weights(net, state, "file.pth")
    text = str(refused.value)
    assert "1 missing: first_conv.conv.weight;" in text
    assert "1 unexpected: extra.weight;" in text
    assert "2 of another shape: feature_mix_layer.conv.weight (1280, 960, 1, 1) int8 instead of (1280" in text
    assert "classifier.linear.bias (7) instead of (10)" in text
    assert "one of: ofa-mbv3-w1.0" in text
    assert equal(snapshot(net), before)


def test_a_file_of_another_space_is_refused_with_a_short_list(nets):
    with pytest.raises(WeightsError) as refused:
        load_weights(nets("ofa-mbv3-w1.0"), mit_state(nets("ofa-proxyless-w1.3")), "file.pth")
    assert " more; " in str(refused.value)
    assert len(str(refused.value)) < 4000
    assert "\n" not in str(refused.value)


def test_a_static_network_is_no_supernet(nets):
    net = nets("ofa-mbv3-w1.0")
    state = {key: tensor for key, tensor in mit_state(net).items() if not key.endswith("_matrix")}
    with pytest.raises(WeightsError, match=r"40 missing: .*7to5_matrix.* net.config"):
        load_weights(net, state, "file.pth")


def test_one_tensor_under_two_names_is_refused(nets):
    net = nets("ofa-mbv3-w1.0")
    state = mit_state(net)
    state["module.first_conv.conv.weight"] = state["first_conv.conv.weight"]
    with pytest.raises(WeightsError, match="under two names"):
        load_weights(net, state, "file.pth")


def test_a_space_that_mit_does_not_have_is_refused():
    with pytest.raises(WeightsError, match=r"no space 'mbv3-tiny'; choose one of: ofa-mbv3-w1.0"):
        mit_state(Supernet(preset("mbv3-tiny")))


@pytest.mark.parametrize("file", ["w.pth", "w.pth.tar", "w.safetensors"])
def test_files_return_what_was_written(file, nets, tmp_path):
    net = nets("ofa-mbv3-w1.0")
    save_weights(net, tmp_path / file)
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert equal(read_weights(tmp_path / file), mit_state(net))


def test_files_without_suffix_and_with_more_than_weights_are_read(nets, tmp_path):
    """MIT's files are called `ofa_mbv3_d234_e346_k357_w1.0`, and checkpoints hold the epoch and the optimizer too."""
    state = mit_state(nets("ofa-mbv3-w1.0"))
    path = tmp_path / "ofa_mbv3_w1.0"
    torch.save({"epoch": 3, "optimizer": {"state": {}}, "state_dict": state}, path)
    assert equal(read_weights(path), state)
    torch.save(state, path)
    assert equal(read_weights(path), state)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path):
    torch.save(
        {"state_dict": {"first_conv.conv.weight": torch.zeros(1)}, "more": Trap(tmp_path / "ran")}, tmp_path / "x"
    )
    with pytest.raises(WeightsError, match="opening those could run code: it was not opened"):
        read_weights(tmp_path / "x")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [("x.pth", b""), ("x.pth", b"no weights"), ("x.pth", b"PK\x03\x04" + 100 * b"x"), ("x.safetensors", b"no weights")],
)
def test_a_damaged_file_is_named(file, content, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{file}' is damaged or no file of tensors"):
        read_weights(tmp_path / file)


def test_a_missing_file_and_other_content_are_named(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        read_weights(tmp_path / "missing.pth")
    for content, says in [([1, 2], "no state dict"), ({"a": 1}, "no tensors: a"), ({}, "no state dict")]:
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=says):
            read_weights(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"lacks first_conv or input_stem.*starts with a$"):
        images_and_classes({"a": torch.zeros(1)}, "x.pth")


def test_weights_are_written_under_a_known_suffix_only(nets, tmp_path):
    with pytest.raises(WeightsError, match=r"must end with \.pth"):
        save_weights(nets("ofa-mbv3-w1.0"), tmp_path / "weights.onnx")
