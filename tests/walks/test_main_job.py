"""README's quick start, run as a user does, and what it leaves behind."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits

from ofa_kit.cli.main import app
from tests.conftest import REPO, SHORTER, ofa_kit_here


def test_the_main_job_prints_predicted_beside_measured(walk):
    out = walk.done["specialize"].out
    assert re.search(r"latency +[\d.]+ ms measured .* [\d.]+ ms predicted", out)
    assert "right in ONNX Runtime" in out
    assert "MAPE" in walk.done["profile"].out
    assert "top1_predicted" in walk.done["table"].out


def test_the_deployment_fits_its_budget_and_agrees_with_pytorch(walk):
    facts = json.loads((walk.folder / "model.deployment.json").read_text())
    budget = float(str(facts["budget"]).split()[0])
    assert facts["measured"]["latency_ms"] <= budget
    assert facts["measured"]["max_relative_difference"] <= 1e-4
    assert facts["measured"]["test_correct_onnx"] == facts["measured"]["test_correct_pytorch"]
    assert facts["measured"]["test_top1_onnx"] >= 90


def test_the_model_is_one_clean_file_that_carries_its_origin(walk):
    model = onnx.load(walk.folder / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version >= 18
    assert not [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    content = (walk.folder / "model.onnx").read_bytes()
    assert str(walk.folder).encode() not in content
    assert str(REPO).encode() not in content
    props = {p.key: p.value for p in model.metadata_props}
    assert {"ofa_kit.arch_key", "ofa_kit.space", "ofa_kit.predicted", "ofa_kit.measured"} <= props.keys()
    assert json.loads(props["ofa_kit.measured"])["latency_ms"] > 0


def test_a_stranger_can_classify_digits_with_the_metadata_alone(walk):
    session = onnxruntime.InferenceSession(walk.folder / "model.onnx", providers=["CPUExecutionProvider"])
    steps = json.loads(session.get_modelmeta().custom_metadata_map["ofa_kit.preprocessing"])
    found = load_digits()
    images = torch.tensor((found.images * (255 / 16)).round(), dtype=torch.float32)[:, None]
    images = (images * steps["scale"] - steps["mean"][0]) / steps["std"][0]
    size = (steps["resize_to"],) * 2
    images = torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    right = [
        session.run(None, {"images": image[None].numpy()})[0].argmax() == label
        for image, label in zip(images[:300], found.target[:300], strict=True)
    ]
    assert np.mean(right) > 0.9


def test_specialize_again_with_an_open_batch_size_into_a_folder(walk):
    done = ofa_kit_here(
        *("specialize", "--run", "digits", "--latency-ms", "5", "--algorithm", "coarse-to-fine"),
        *("--export", "out", "--dynamic-batch", "--json"),
        cwd=walk.folder,
    )
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["measured"]["latency_ms"] <= 5
    model = onnx.load(walk.folder / "out" / "model.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert (walk.folder / "out" / "deployment.json").exists()


def test_export_of_a_named_subnet(walk):
    done = ofa_kit_here("export", "--arch", "smallest", "--run", "digits", "--export", "small.onnx", cwd=walk.folder)
    assert done.code == 0, done.err
    assert (walk.folder / "small.onnx").stat().st_size < 200_000


def test_table_writes_csv_and_json(walk):
    done = ofa_kit_here("table", "--run", "digits", "--out", "table.csv", cwd=walk.folder)
    assert done.code == 0, done.err
    lines = (walk.folder / "table.csv").read_text().splitlines()
    assert lines[0].startswith("key,resolution,stem,widths,depths,kernel_sizes,expand_ratios,head,macs_m")
    rows = json.loads(ofa_kit_here("table", "--run", "digits", "--json", cwd=walk.folder).out)
    assert len(rows) == len(lines) - 1
    assert any(row["pareto"] for row in rows)


def test_training_and_profiling_again_measure_nothing_twice(walk):
    table = next(walk.folder.glob("latency_tables/cpu-ort/*/mbv3-tiny.csv"))
    accuracy = walk.folder / "runs" / "digits" / "accuracy.csv"
    before = table.read_text(), accuracy.read_text()
    done = ofa_kit_here("profile", "--device", "cpu-ort", "--run", "digits", *SHORTER["profile"], cwd=walk.folder)
    assert done.code == 0, done.err
    assert (table.read_text(), accuracy.read_text()) == before


def test_every_command_in_readme_exists_with_its_options():
    import typer

    group = typer.main.get_command(app)
    text = (REPO / "README.md").read_text(encoding="utf-8")
    commands = [line.strip().split() for line in text.splitlines() if line.strip().startswith("ofa-kit ")]
    assert len(commands) >= 6
    for _, name, *words in commands:
        command = group.commands[name]
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, (name, words)
