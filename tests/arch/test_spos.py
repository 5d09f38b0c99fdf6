"""SPOS's spaces: the published numbers, the text form, and that spaces which were there before stay what they were."""

import hashlib
import json

import numpy as np
import pytest

from ofa_kit.arch.choices import Operation
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.layers import layers, macs, params
from ofa_kit.arch.presets import preset
from ofa_kit.arch.space_file import read_space, write_space
from ofa_kit.arch.spos_format import from_spos_text, to_spos_text
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError
from ofa_kit.search.budget import Budget, Objective
from ofa_kit.search.feasible import require_feasible
from ofa_kit.supernet.supernet import Supernet, fix_affine

PUBLISHED = "[0, 0, 3, 1, 1, 1, 0, 0, 2, 0, 2, 1, 1, 0, 2, 0, 2, 1, 3, 2]"
BEFORE = {
    # space: fingerprint; keys of smallest, largest and a sampled subnet; hashes of its CSV row and of layer keys
    "ofa-mbv3-w1.0": ("58151efca198", "fcd2415bdf92", "d354c2eb39fd", "e08ea397bfc3", "aa1369c470f6", "123fb5026d4d"),
    "ofa-mbv3-w1.2": ("a98d000b3fb3", "a2e4211652ec", "12ce72689c31", "910b8443800c", "459641ff2990", "552f6b5d6ac9"),
    "ofa-proxyless-w1.3": (
        "4ee8a9dd6947", "7f53d848087e", "c7982be652ba", "09b50408f6e1", "d6c85c84997e", "b663655fe1ce",
    ),
    "ofa-resnet50d": ("e674d6566140", "9705d5092a5d", "9c7a8de42417", "6de512836646", "96b4fd8dd1fe", "f65f3d279b47"),
    "attentive-nas": ("7ebe18dfb0c3", "bde72e8d2d4d", "a798b58c3d34", "e35fb7b78b00", "4381d78557a1", "e8369c467505"),
    "mbv3-small-images": (
        "5cf0f096c347", "39d7e52f633d", "8845502d65d4", "5a6deea9118c", "125ece48853f", "ee899ca54672",
    ),
    "resnet-small-images": (
        "569683c75a4b", "2ec753677200", "2c1ec2e50bdd", "47f9ffbe9b79", "93e0a21d4362", "e66b64edf340",
    ),
    "bignas-small-images": (
        "a473ad3cbffc", "524686d3c17a", "e4bcec2297dc", "ffc09d352f94", "c5dea1c5a22d", "aad644df57da",
    ),
    "mbv3-tiny": ("0ae2da2a8e2a", "b66923e0cc74", "415ecd47e082", "87090f228cf2", "732b458254e0", "cbed078a588f"),
}  # fmt: skip


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", list(BEFORE))
def test_keys_rows_and_fingerprints_of_measured_spaces_stay(name, rng):
    space = preset(name)
    archs = [space.sample(rng), space.smallest(), space.largest()]
    found = (
        space.fingerprint,
        archs[1].key,
        archs[2].key,
        archs[0].key,
        digest(json.dumps(archs[0].to_row())),
        digest("".join(layer.key for arch in archs for layer in layers(space, arch))),
    )
    assert found == BEFORE[name]


@pytest.mark.parametrize(
    ("text", "expected_macs", "expected_params"),
    [
        (PUBLISHED, 318_729_024, 3_345_088),
        ("0 " * 20, 295_842_496, 3_154_880),
        ("1 " * 20, 313_654_976, 3_211_968),
        ("2 " * 20, 340_373_696, 3_297_600),
    ],
)
def test_macs_and_params_equal_the_published_code(text, expected_macs, expected_params):
    space = preset("spos-shufflenet")
    arch = from_spos_text(space, text)
    assert (macs(space, arch), params(space, arch)) == (expected_macs, expected_params)
    same = from_spos_text(preset("spos-shufflenet-channels"), text)
    assert same == arch
    assert macs(preset("spos-shufflenet-channels"), same) == expected_macs


def test_the_supernet_has_as_many_parameters_as_the_published_code():
    supernet = Supernet(preset("spos-shufflenet"))
    fix_affine(supernet)
    assert sum(tensor.numel() for tensor in supernet.parameters() if tensor.requires_grad) == 8_388_176


def test_a_budget_below_the_smallest_subnet_is_refused_at_once_and_its_own_macs_are_not():
    space = preset("spos-shufflenet")
    assert macs(space, space.smallest()) == 270_359_360

    def objective(most):
        def zeros(genomes):
            return np.zeros(len(genomes))

        return Objective(space, Budget(macs_m=most / 1e6), zeros, zeros)

    assert macs_of(space, require_feasible(objective(270_359_360))).tolist() == [270_359_360]
    with pytest.raises(InfeasibleBudgetError, match=r"270\.36 M MACs"):
        require_feasible(objective(270_359_359))


@pytest.mark.parametrize("name", ["spos-shufflenet", "spos-shufflenet-channels", "spos-small-images-channels"])
def test_texts_round_trip(name, rng):
    space = preset(name)
    for _ in range(20):
        arch = space.sample(rng)
        text = to_spos_text(arch)
        assert from_spos_text(space, text) == arch
        assert from_spos_text(space, str(np.array([int(word) for word in text.split()]))) == arch


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2", "expected 20 operations"),
        ("0 " * 19 + "x", "whole numbers"),
        ("4 " * 20, r"no operation 4; they are 0\.\.3"),
        ("0 " * 20 + "9 " * 20, r"no channel scale 9; they are 0\.\.7"),
        ("0 " * 20 + "0 " * 20, "is not in the space 'spos-shufflenet'"),
    ],
)
def test_a_text_that_is_no_architecture_says_what_is_wrong(text, message):
    with pytest.raises(OfaKitError, match=message):
        from_spos_text(preset("spos-shufflenet"), text)


def test_rows_name_the_operations_and_a_space_file_keeps_them(tmp_path):
    space = preset("spos-small-images")
    arch = from_spos_text(space, "3 0 1 2 0 1 3 3 0")
    row = arch.to_row()
    assert row["kernel_sizes"] == "xception shuffle3 shuffle5|shuffle7 shuffle3 shuffle5|xception xception shuffle3"
    assert ArchConfig.from_row(row) == arch
    assert arch.stages[0].operations[0] is Operation.XCEPTION
    write_space(tmp_path / "space.yaml", space)
    assert read_space(tmp_path / "space.yaml") == space
    assert read_space(tmp_path / "space.yaml").fingerprint == space.fingerprint


@pytest.mark.parametrize("name", ["spos-shufflenet-channels", "spos-small-images-channels"])
def test_every_channel_scale_gives_a_block_another_width(name):
    space = preset(name)
    blocks = sum(stage.max_depth for stage in space.stages)
    nets = [layers(space, from_spos_text(space, "0 " * blocks + f"{scale} " * blocks)) for scale in range(8)]
    for same_block in list(zip(*nets, strict=True))[1 : blocks + 1]:
        widths = [layer.hidden_channels for layer in same_block]
        assert widths == sorted(set(widths))
