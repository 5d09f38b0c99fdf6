"""Training a macro arc's network: what it writes, that a kill changes nothing, and arcs beside genotypes."""

import dataclasses
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ofa_kit.cli.main import app, main
from ofa_kit.commands.train_cells import train_cells
from ofa_kit.config import read_yaml, shipped_profiles
from ofa_kit.data.batches import evaluation_batches
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError, RecipeError, RunError
from ofa_kit.nas.enas.macro_arc import PRESETS, read_macro_arc
from ofa_kit.nas.enas.macro_network import MacroNetwork
from ofa_kit.nas.enas.macro_network_recipe import MacroNetworkRecipe
from ofa_kit.nas.image_training import ImageTraining

ARC = "1 \n 4 1 \n 0 0 1"
TINY = {"macro_arc": ARC, "data": "digits", "images": 120, "channels": 4, "epochs": 2, "batch_size": 20}
TINY |= {"cutout": 2, "dropout": 0.3, "restart_epochs": 1}
QUICK = "name: quick\nbackend: onnxruntime\nprotocol: {sessions: 1, rounds_per_block: 3, pause_s: 0.0, warmup_s: 0.0}\n"


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def test_a_trained_network_is_exported_proven_timed_and_drawn(tmp_path):
    (tmp_path / "quick.yaml").write_text(QUICK)
    values = {**TINY, "device": str(tmp_path / "quick.yaml"), "images": 700, "cutout": 0, "dropout": 0.0, "epochs": 3}
    found = train_cells(values, tmp_path / "run")
    recipe, dataset = MacroNetworkRecipe.parse(values, "test"), open_dataset("digits", photo_size=8)
    network = MacroNetwork(read_macro_arc(ARC), recipe.shape(dataset.info)).eval()
    network.load_state_dict(load_file(tmp_path / "run" / "network.safetensors"))
    session = onnxruntime.InferenceSession(str(found.model), providers=["CPUExecutionProvider"])
    correct = total = 0
    for images, labels in evaluation_batches(dataset.test, dataset.info):
        logits, expected = session.run(None, {"images": images.numpy()})[0], network(images).detach().numpy()
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
        correct, total = correct + int((logits.argmax(1) == labels.numpy()).sum()), total + len(labels)
    assert (found.test_images, found.test_top1_onnx) == (total, pytest.approx(100 * correct / total))
    assert found.test_top1 > 30, "it learned more than to guess"
    assert found.params == sum(weight.numel() for weight in network.parameters())
    assert found.latency.latency_ms > 0
    facts = {entry.key: entry.value for entry in onnx.load(found.model).metadata_props}
    assert read_macro_arc(facts["ofa_kit.macro_arc"]) == read_macro_arc(ARC)
    assert (tmp_path / "run" / "arc.txt").read_text().splitlines() == ["1", "4 1", "0 0 1"]
    assert (tmp_path / "run" / "network.png").read_bytes()[:4] == b"\x89PNG"
    assert train_cells({}, tmp_path / "run", resume=True) == found


def test_killed_in_an_epoch_and_resumed_is_as_if_it_had_not_been(tmp_path, monkeypatch):
    values = {**TINY, "checkpoint_s": 0.0}
    whole = train_cells(values, tmp_path / "whole")
    move = ImageTraining.step

    def killed_in_the_second_epoch(self, batch, epoch, step):
        if (epoch, step) == (1, 2):
            raise KilledError
        return move(self, batch, epoch, step)

    monkeypatch.setattr(ImageTraining, "step", killed_in_the_second_epoch)
    with pytest.raises(KilledError):
        train_cells(values, tmp_path / "cut")
    monkeypatch.setattr(ImageTraining, "step", move)
    with pytest.raises(RunError, match="was begun with a macro_arc, --resume asks for a genotype"):
        train_cells({"genotype": "darts-v2"}, tmp_path / "cut", resume=True)
    with pytest.raises(RunError, match="was begun with macro_arc"):
        train_cells({"macro_arc": "enas-macro"}, tmp_path / "cut", resume=True)
    resumed = train_cells({"macro_arc": ARC}, tmp_path / "cut", resume=True)
    assert dataclasses.replace(resumed, folder=whole.folder) == whole
    ends = [load_file(tmp_path / name / "network.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"macro_arc": "darts-v2"}, "macro_arc is a genotype of cells, not a macro arc; give it as --genotype"),
        ({"genotype": "enas-macro"}, "genotype is a macro arc, not a genotype of cells; give it as --macro-arc"),
        ({"genotype": ARC}, "genotype is a macro arc"),
        ({"macro_arc": "0 2 0 1 0 0 1 1"}, "macro_arc is a genotype of cells"),
        ({"macro_arc": "enas-makro"}, "did you mean 'enas-macro'"),
        ({"macro_arc": "0 1"}, "found 2; 1 or 2 layers have 1 or 3"),
        ({"macro_arc": "0 1 2"}, "skip bits"),
        ({"genotype": "Genotype(normal=3)"}, "is no genotype"),
        ({"genotype": "darts-v2", "macro_arc": "enas-macro"}, "genotype and macro_arc are both given"),
        ({}, "nothing to train; give --genotype or --macro-arc"),
        ({"macro_arc": ARC, "drop_path": 0.1}, "unknown key"),
        ({"macro_arc": ARC, "dropout": 1.0}, "dropout must be in"),
        ({"macro_arc": ARC, "channels": 0}, "channels must be at least 1"),
        ({"macro_arc": ARC, "schedule": "cosine"}, "lr_min belongs to schedule: restarts"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_folder_is_begun(values, message, tmp_path):
    with pytest.raises(OfaKitError, match=message) as raised:
        train_cells(values, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_text_of_the_other_kind_in_a_file_is_recognized(tmp_path):
    (tmp_path / "arc.txt").write_text(f"{ARC}\n")
    with pytest.raises(RecipeError, match="give it as --macro-arc"):
        train_cells({"genotype": str(tmp_path / "arc.txt")}, tmp_path / "run")


def test_the_command_line_trains_an_arc_and_ends_with_2_for_a_genotype(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arc.txt").write_text(f"{ARC}\n")
    tiny = ["channels=4", "images=100", "batch_size=20", "warmup_epochs=0"]
    options = [word for setting in tiny for word in ("--set", setting)]
    command = ["train-cells", "--recipe", "macro-small", "--data", "digits", "--epochs", "1", *options]
    done = CliRunner().invoke(app, [*command, "--macro-arc", "arc.txt", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["macro_arc"] == "1\n4 1\n0 0 1"
    for wrong in (["--macro-arc", "darts-v2"], ["--genotype", "darts-v2"], ["--macro-arc", "0 1 2"]):
        monkeypatch.setattr(sys, "argv", ["ofa-kit", *command, *wrong, "--run", "other"])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_recipe_of_cifar10_is_the_published_one():
    recipe = MacroNetworkRecipe.parse(read_yaml(shipped_profiles() / "recipes" / "macro-cifar10.yaml"), "cifar10")
    assert dataclasses.replace(recipe, eval_every=1, workers=0) == MacroNetworkRecipe(macro_arc="enas-macro")
    shape = recipe.shape(open_dataset("digits", photo_size=8).info)
    assert (shape.layers, shape.channels) == (len(PRESETS["enas-macro"].layers), 96)
