"""Deployments: the file computes what its JSON says, and people without this package can use it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ofa_kit.commands import deploy_conversion
from ofa_kit.commands.deploy import deploy
from ofa_kit.commands.deploy_conversion import Conversion
from ofa_kit.commands.measure_accuracy import open_evaluator
from ofa_kit.data.batches import evaluation_batches
from ofa_kit.errors import ExportError, OfaKitError
from ofa_kit.latency.backends.onnxruntime import OrtBackend
from ofa_kit.latency.device import DeviceProfile
from tests.commands.runs import new_run

CPU = DeviceProfile.load("cpu-ort")
ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
assert not {"torch", "ofa_kit", "onnx"} & sys.modules.keys()
sys.exit(code)
"""
"""Runs a script and fails where it imported more than a stranger has."""


@pytest.fixture(scope="module")
def made_of(tmp_path_factory):
    """A function from a conversion to the folder of its deployment, each made once, with the network in PyTorch."""
    root = tmp_path_factory.mktemp("deploy")
    run = new_run(root / "runs" / "digits")
    supernet, weights_hash = run.load_supernet()
    evaluator = open_evaluator(run)
    subnet = evaluator.recalibrated(supernet, run.space.largest())
    made = {}

    def make(conversion, folder=None):
        target = folder or root / f"{conversion.precision}-{conversion.embed_preprocessing}"
        if conversion not in made or folder:
            deploy(
                run,
                subnet,
                target,
                device=CPU,
                evaluator=evaluator,
                weights_hash=weights_hash,
                validation_top1=10.0,
                latency=None,
                predicted={"latency_ms": 0.1, "top1": 10.0},
                conversion=conversion,
            )
            made[conversion] = target
        return made[conversion], subnet, evaluator.dataset

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_file_is_right_as_often_as_its_json_says(made_of, precision):
    folder, subnet, dataset = made_of(Conversion(precision=precision, max_accuracy_drop=100))
    facts = json.loads((folder / "deployment.json").read_text())
    session = OrtBackend(CPU).load((folder / "model.onnx").read_bytes())
    right = 0
    for images, labels in evaluation_batches(dataset.test, dataset.info):
        resized = torch.nn.functional.interpolate(
            images, size=(subnet.arch.resolution,) * 2, mode="bilinear", antialias=True
        )
        right += int((session.predict(image[None].numpy() for image in resized).argmax(1) == labels.numpy()).sum())
    assert facts["measured"]["test_correct_onnx"] == right
    assert facts["precision"] == precision
    if precision != "fp32":
        found = facts["conversion"]
        assert found["test_correct"][precision] == right
        drop = 100 * (found["test_correct"]["fp32"] - right) / found["test_images"]
        assert found["top1_drop"] == pytest.approx(drop, abs=1e-3)
        assert precision in found["verdict"]


@pytest.mark.parametrize("embedded", [False, True])
def test_a_stranger_gets_the_classes_that_pytorch_gives(made_of, tmp_path, embedded):
    folder, subnet, dataset = made_of(Conversion(precision="fp32", embed_preprocessing=embedded))
    images, _ = next(evaluation_batches(dataset.test, dataset.info, batch_size=24))
    mean, std = (torch.tensor(value)[:, None, None] for value in (dataset.info.mean, dataset.info.std))
    paths = []
    for number, image in enumerate(images):
        pixels = ((image * std + mean) * 255).round().to(torch.uint8)
        paths.append(tmp_path / f"{number:02}.png")
        Image.fromarray(pixels[0].numpy()).save(paths[-1])
    command = [sys.executable, "-I", "-c", ALONE, str(folder / "predict.py"), "--top", "1", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = [line.split()[-1] for line in done.stdout.splitlines() if "%" in line]
    with torch.no_grad():
        size = (subnet.arch.resolution,) * 2
        logits = subnet(torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True))
    assert said == [dataset.info.class_names[i] for i in logits.argmax(1)]


@pytest.mark.parametrize(("name", "said"), [("absent.png", "no image"), ("text.png", "not a readable image")])
def test_predict_says_what_is_wrong_with_an_image(made_of, tmp_path, name, said):
    (tmp_path / "text.png").write_text("no image at all")
    folder, _, _ = made_of(Conversion(precision="fp32"))
    command = [sys.executable, str(folder / "predict.py"), str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_too_large_a_loss_is_refused_and_what_was_there_stays(made_of, tmp_path, monkeypatch):
    made_of(Conversion(precision="fp32"), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    compare = deploy_conversion.compare_converted

    def from_the_best(*given, **named):
        """The comparison, as if fp32 had been right on every image: random weights are right on a tenth."""
        found = compare(*given, **named)
        return replace(found, correct_before=found.images)

    monkeypatch.setattr(deploy_conversion, "compare_converted", from_the_best)
    with pytest.raises(ExportError, match="max-accuracy-drop"):
        made_of(Conversion(precision="fp16", max_accuracy_drop=0.5), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_page_needs_nothing_from_elsewhere_and_holds_what_was_measured(made_of):
    folder, _, _ = made_of(Conversion(precision="int8", max_accuracy_drop=100))
    page = (folder / "report.html").read_text()
    facts = json.loads((folder / "deployment.json").read_text())
    assert facts["arch_key"] in page
    assert f"{facts['measured']['test_top1_onnx']:.2f}" in page
    assert 'src="http' not in page
    assert "<link" not in page


def test_a_negative_drop_is_refused():
    with pytest.raises(OfaKitError, match="max-accuracy-drop"):
        Conversion(max_accuracy_drop=-1)
