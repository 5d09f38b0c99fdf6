import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ofa_kit.arch.presets import preset
from ofa_kit.errors import RunError
from ofa_kit.supernet.subnet import extract
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.subnet_file import load_subnet, save_subnet


@pytest.mark.parametrize("name", ["mbv3-tiny", "resnet-small-images", "bignas-small-images"])
@torch.no_grad()
def test_a_saved_subnet_comes_back_with_its_space_architecture_and_logits(name, tmp_path, rng):
    space = preset(name)
    subnet = extract(Supernet(space).eval(), space.sample(rng))
    save_subnet(tmp_path / "net.safetensors", subnet)
    found = load_subnet(tmp_path / "net.safetensors")
    assert (found.space, found.arch) == (subnet.space, subnet.arch)
    images = torch.randn(2, space.in_channels, subnet.arch.resolution, subnet.arch.resolution)
    torch.testing.assert_close(found(images), subnet(images), rtol=1e-5, atol=1e-6)


def test_a_file_without_or_with_another_subnet_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.ones(1)}, str(path))
    with pytest.raises(RunError, match="names no space and architecture"):
        load_subnet(path)
    space = preset("mbv3-tiny")
    save_subnet(path, extract(Supernet(space), space.largest()))
    tensors = load_file(str(path))
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])["__metadata__"]
    tensors.pop("layers.stem.conv.weight")
    save_file(tensors, str(path), metadata=header)
    with pytest.raises(RunError, match="does not hold the weights"):
        load_subnet(path)
