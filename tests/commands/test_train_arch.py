"""train-arch: one architecture alone from scratch, by each way of naming it, and what it is worth."""

import json
from dataclasses import asdict, replace

import numpy as np
import onnxruntime
import pytest
import torch

from ofa_kit.arch.presets import preset
from ofa_kit.arch.space_file import write_space
from ofa_kit.arch.spos_format import to_spos_text
from ofa_kit.commands.measure_accuracy import open_evaluator
from ofa_kit.commands.train_arch import alone, export_trained, train_arch, wanted_of_run, wanted_of_space
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import RunError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import TimingProtocol
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.run import Run
from tests.commands.processes import refused
from tests.conftest import ofa_kit_here
from tests.digit_photos import write_digits
from tools.command_processes import kill_when

SPACE = replace(preset("spos-small-images"), name="spos-quick", resolutions=(8,))
QUICK = TimingProtocol(sessions=1, rounds_per_block=2, warmup_runs=1, warmup_s=0.0, min_burst_s=0.0, pause_s=0.0)
DEVICE = replace(DeviceProfile.load("cpu-ort"), protocol=QUICK)
ARCH = "0 3 1 2 0 1 3 3 0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the run `spos`, whose supernet is as it starts, one subnet of it measured."""
    folder = tmp_path_factory.mktemp("alone")
    data = write_digits(folder / "photos", 200)
    info = open_dataset(data, photo_size=32).info
    write_space(folder / "spos-quick.yaml", SPACE)
    (folder / "quick.yaml").write_text("name: quick\nbackend: onnxruntime\nprotocol: {sessions: 1, pause_s: 0.0}\n")
    values = {
        "space": str(folder / "spos-quick.yaml"),
        "data": data,
        "method": "single-path",
        "epochs": 1,
        "batch_size": 32,
    }
    values |= {"bn_affine": False, "strict_fairness": True, "calibration_images": 100, "eval_every": 1, "lr": 0.05}
    run = Run.create(folder / "runs" / "spos", Recipe.parse(values, "test"), info)
    run.save_supernet(Supernet(run.space).state_dict())
    table = AccuracyTable.open(run.accuracy, run.load_supernet()[1])
    table.add(run.space.smallest(), 12.5, images=144, calibration_images=100, measured_at="2026-01-01T00:00:00Z")
    return folder


@pytest.fixture
def run(folder):
    return Run.open(folder / "runs" / "spos")


def test_a_supernets_recipe_becomes_one_for_a_network_alone(run):
    wanted = wanted_of_run(run, ARCH, device=DEVICE)
    recipe = Recipe.parse({**wanted.recipe, "space": wanted.of_space, "method": "single-path"}, "test")
    assert (recipe.bn_affine, recipe.strict_fairness) == (True, False)
    assert (recipe.epochs, recipe.batch_size, recipe.data) == (1, 32, run.recipe.data)
    sandwich = Recipe(space="mbv3-tiny", num_random=3, dropout=0.2, init_from="somewhere", lr=0.3)
    assert alone(asdict(sandwich)).keys().isdisjoint({"method", "num_random", "dropout", "init_from", "space"})
    assert alone(asdict(sandwich))["lr"] == 0.3


def test_every_way_to_name_an_architecture_means_the_same(run, tmp_path):
    arch = run.space.smallest()
    text = to_spos_text(arch)
    files = {"row": arch.to_row(), "deployment": {"model": "x.onnx", "arch": arch.to_row()}}
    files |= {"search": {"best": {"arch": arch.to_row(), "top1": 1.0}}, "numbers": [int(word) for word in text.split()]}
    names = ["smallest", arch.key, text, json.dumps(arch.to_row())]
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        names.append(str(tmp_path / f"{name}.json"))
    found = [wanted_of_run(run, name, device=DEVICE) for name in names]
    assert {wanted.arch for wanted in found} == {arch}
    assert {wanted.shared_top1 for wanted in found} == {12.5}
    others = [wanted_of_space(run.recipe.space, name, tmp_path).arch for name in names if name != arch.key]
    assert set(others) == {arch}
    mit = {"ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": 128}
    assert wanted_of_space("ofa-mbv3-w1.0", json.dumps(mit), tmp_path).arch == preset("ofa-mbv3-w1.0").smallest()


def test_a_killed_training_ends_with_the_same_weights_and_the_onnx_computes_what_pytorch_computes(run, folder):
    whole = train_arch(wanted_of_run(run, ARCH, device=DEVICE), folder / "whole")
    given = ("train-arch", "--run", "spos", "--arch", ARCH)
    trained = run.folder / "alone" / whole.space.largest().key
    checkpoint = trained / "checkpoints" / "last.safetensors"
    kill_when(checkpoint.exists, *given, "--set", "checkpoint_s=0", cwd=folder)
    assert not (trained / "supernet.safetensors").exists()
    done = ofa_kit_here(*given, "--resume", "--device", "quick.yaml", "--json", cwd=folder)
    assert done.code == 0, done.err
    assert (trained / "supernet.safetensors").read_bytes() == whole.weights.read_bytes()
    facts = json.loads(done.out)
    measured = facts["measured"]
    assert facts["arch_key"] == whole.space.largest().key
    assert facts["predicted"] == {}
    assert measured["latency_ms"] > 0
    assert measured["test_correct_onnx"] == measured["test_correct_pytorch"]

    again, evaluator = Run.open(trained), open_evaluator(whole)
    subnet = evaluator.recalibrated(again.load_supernet()[0], again.space.largest())
    session = onnxruntime.InferenceSession(trained / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))
    with torch.no_grad():
        logits = subnet(images).numpy()
    for image, expected in zip(images, logits, strict=True):
        found = session.run(None, {"images": image[None].numpy()})[0][0]
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(logits).max())
    assert measured["validation_top1"] == pytest.approx(evaluator.validation_top1(subnet), abs=1e-3)


def test_only_a_network_trained_alone_is_exported_as_one(run, tmp_path):
    with pytest.raises(RunError, match=r"holds 2\.62e\+05 subnets, not one trained alone"):
        export_trained(run, tmp_path / "model.onnx", device=DEVICE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing to train"),
        (("--arch", ARCH), "--arch needs the space"),
        (("--arch", ARCH, "--run", "spos", "--space", "spos-small-images"), "give one of them"),
        (("--arch", "larges", "--run", "spos"), "did you mean 'largest'"),
        (("--arch", "0 1", "--run", "spos"), "expected 9 operations"),
        (("--arch", "missing.json", "--run", "spos"), "no file 'missing.json'"),
        (("--arch", "17", "--run", "spos"), "unknown arch '17'"),
        (("--arch", '{"ks": [3]}', "--run", "spos"), "--arch holds no architecture of 'spos-quick'"),
        (("--arch", "smallest", "--space", "spos-smal"), "did you mean 'spos-small-images'"),
        (("--arch", "smallest", "--run", "spos", "--set", "epoch=3"), "did you mean 'epochs'"),
        (("--arch", "smallest", "--run", "spos", "--epochs", "0"), "epochs must be at least 1"),
        (("--arch", "smallest", "--run", "spos", "--data", "imagefolder:nowhere"), "no folder 'nowhere'"),
        (("--arch", "smallest", "--run", "spos", "--export", "model.pth"), "NAME.onnx or a folder"),
        (("--arch", "smallest", "--run", "spos", "--name", "spos"), "exists; go on with --resume, or .* --name"),
        (("--arch", "smallest", "--run", "nobody"), "no run 'runs/nobody'"),
        (("--name", "nobody", "--resume"), "no run 'runs/nobody'"),
    ],
)  # fmt: skip
def test_misuse_ends_with_one_line_and_leaves_no_run(arguments, says, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    refused(capsys, monkeypatch, "train-arch", *arguments, says=says)
    assert sorted(folder.rglob("*")) == before
