"""A user's network on the command line: a space file and a supernet that training starts from."""

import json

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from ofa_kit.arch.space_file import find_space
from ofa_kit.commands.convert import build_model, convert_model
from ofa_kit.errors import ConvertError, RunError, UnknownNameError
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training import checkpoint
from tests.conftest import ofa_kit_forked

NETWORK = "import torchvision\n\n\ndef net():\n    return torchvision.models.mobilenet_v3_small(num_classes=7)\n"
MODEL = "torchvision:mobilenet_v3_small"


def test_a_network_of_the_users_own_module_is_converted(tmp_path):
    (tmp_path / "mine.py").write_text(NETWORK)
    model = torchvision.models.mobilenet_v3_small(num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "net.pth")
    done = ofa_kit_forked(
        "convert", "mine:net", "--run", "net", "--resolutions", "64,48", "--weights", "net.pth", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)
    space = find_space(str(tmp_path / said["space_file"]))
    assert (space.name, space.num_classes, space.resolutions) == ("net-converted", 7, (48, 64))
    assert said["subnets"] == space.size()
    tensors, facts = checkpoint.load(tmp_path / said["weights"])
    assert facts == {
        "space": space.name,
        "space_fingerprint": space.fingerprint,
        "weights_hash": checkpoint.weights_hash(tensors),
    }
    supernet = Supernet(space).eval()
    supernet.load_state_dict(tensors)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        assert (supernet(images, space.largest()) - expected).abs().max() <= 1e-4 * expected.abs().max()
    again = ofa_kit_forked("convert", "mine:net", "--run", "net", cwd=tmp_path)
    assert again.code == 2
    assert again.err.strip().splitlines()[-1] == "error: 'runs/net/space.yaml' exists; choose another --run NAME"


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("resnet50", ConvertError, "a model is given as torchvision:mobilenet_v3_large"),
        ("torchvision:mobilenet_v4", UnknownNameError, "did you mean 'mobilenet_v2'"),
        ("nowhere.at.all:net", ConvertError, "cannot import 'nowhere.at.all'"),
        ("json:dump_", UnknownNameError, "did you mean 'dump'"),
        ("builtins:dict", ConvertError, r"returned dict, expected a torch\.nn\.Module"),
    ],
)
def test_what_names_no_network_is_refused(name, error, says):
    with pytest.raises(error, match=says):
        build_model(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda state: state.pop("features.0.0.weight"),
            "1 missing: features.0.0.weight; give the weights of this very",
        ),
        (lambda state: state.update(more=torch.ones(1)), "1 unexpected: more"),
        (lambda state: state.update({"classifier.3.bias": torch.ones(7)}), "1 of another shape: classifier.3.bias"),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_written(change, says, tmp_path):
    state = torchvision.models.mobilenet_v3_small().state_dict()
    change(state)
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(ConvertError, match=says):
        convert_model(MODEL, tmp_path / "run", resolutions=(64,), weights=tmp_path / "net.safetensors")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: {}\n")
    with pytest.raises(RunError, match="choose another --run NAME"):
        convert_model(MODEL, tmp_path, resolutions=(64,), weights=None)
