"""Training a genotype's network: what it writes, that a kill changes nothing, cutout and drop-path."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner

from ofa_kit.cli.search_darts import darts
from ofa_kit.cli.train_cells import train_cells as train_cells_cli
from ofa_kit.commands.train_cells import train_cells
from ofa_kit.data.batches import evaluation_batches
from ofa_kit.data.cutout import cutout
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError, RecipeError, RunError
from ofa_kit.nas.cells.presets import PRESETS
from ofa_kit.nas.cells.recipe import CellsRecipe
from ofa_kit.nas.cells.training import CellTraining

TINY = {"genotype": "darts-v2", "data": "digits", "images": 120, "cells": 2, "channels": 4, "epochs": 2}
TINY |= {"batch_size": 20, "auxiliary_weight": 0.0, "cutout": 2, "drop_path": 0.3, "lr": 0.1}
QUICK = "name: quick\nbackend: onnxruntime\nprotocol: {sessions: 1, rounds_per_block: 3, pause_s: 0.0, warmup_s: 0.0}\n"


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def test_a_trained_network_is_exported_proven_and_timed(tmp_path):
    (tmp_path / "quick.yaml").write_text(QUICK)
    values = {**TINY, "device": str(tmp_path / "quick.yaml"), "images": 700, "drop_path": 0.0, "cutout": 0}
    found = train_cells(values, tmp_path / "run")
    dataset = open_dataset("digits", photo_size=8)
    session = onnxruntime.InferenceSession(str(found.model), providers=["CPUExecutionProvider"])
    correct = total = 0
    for images, labels in evaluation_batches(dataset.test, dataset.info):
        logits = session.run(None, {"images": images.numpy()})[0]
        correct, total = correct + int((logits.argmax(1) == labels.numpy()).sum()), total + len(labels)
    assert found.test_images == total
    assert found.test_top1_onnx == pytest.approx(100 * correct / total)
    assert found.test_top1 == pytest.approx(found.test_top1_onnx, abs=0.5)
    assert found.test_top1 > 30, "it learned more than to guess"
    assert found.max_relative_difference <= 1e-4
    assert found.latency.latency_ms > 0
    facts = {entry.key: entry.value for entry in _metadata(found.model)}
    assert "Genotype(" in facts["ofa_kit.genotype"]
    assert json.loads(facts["ofa_kit.class_names"]) == [str(digit) for digit in range(10)]
    assert train_cells({}, tmp_path / "run", resume=True) == found
    _predicts(tmp_path / "run", dataset)


def _metadata(path):
    import onnx

    return onnx.load(path).metadata_props


def _predicts(folder, dataset):
    """Classify an image file with the script beside the model."""
    from PIL import Image

    image = dataset.test.image(0)[0].numpy()
    Image.fromarray(image).save(folder / "digit.png")
    command = [sys.executable, str(folder / "predict.py"), str(folder / "digit.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_killed_in_an_epoch_and_resumed_is_as_if_it_had_not_been(tmp_path, monkeypatch):
    values = {**TINY, "checkpoint_s": 0.0}
    whole = train_cells(values, tmp_path / "whole")
    move = CellTraining.step

    def killed_in_the_second_epoch(self, batch, epoch, step):
        if (epoch, step) == (1, 2):
            raise KilledError
        return move(self, batch, epoch, step)

    monkeypatch.setattr(CellTraining, "step", killed_in_the_second_epoch)
    with pytest.raises(KilledError):
        train_cells(values, tmp_path / "cut")
    monkeypatch.setattr(CellTraining, "step", move)
    resumed = train_cells({"genotype": "darts-v2"}, tmp_path / "cut", resume=True)
    assert dataclasses.replace(resumed, folder=whole.folder) == whole
    ends = [load_file(tmp_path / name / "network.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    with pytest.raises(RunError, match="was begun with genotype"):
        train_cells({"genotype": "darts-v1"}, tmp_path / "cut", resume=True)


def test_drop_path_and_the_rate_follow_the_recipe(tmp_path):
    recipe = CellsRecipe.parse({**TINY, "epochs": 10, "drop_path": 0.2}, "test")
    training = CellTraining(
        recipe, PRESETS["darts-v2"], open_dataset("digits", photo_size=8), tmp_path, torch.device("cpu")
    )
    rows = [training.end_epoch(epoch, {"loss": 1.0, "elapsed_s": 1.0})[training.metrics][0] for epoch in (0, 5, 9)]
    assert [float(row["drop_path"]) for row in rows] == pytest.approx([0.0, 0.1, 0.18])
    assert float(rows[0]["lr"]) > float(rows[1]["lr"]) > float(rows[2]["lr"])
    assert float(rows[2]["lr"]) < 0.01 * recipe.lr


def test_cutout_blanks_one_square_an_image():
    images = torch.ones(500, 2, 12, 12)
    once, again = (cutout(images, 4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(once[:, 0], once[:, 1])
    for blank in (once[:, 0] == 0).numpy():
        rows, columns = np.flatnonzero(blank.any(1)), np.flatnonzero(blank.any(0))
        assert blank.sum() == len(rows) * len(columns)
        assert 2 <= len(rows) <= 4
        assert np.ptp(rows) == len(rows) - 1
    assert (once == 0).any(0)[0].all(), "centres lie everywhere"
    assert cutout(images, 0, torch.Generator()) is images


def test_a_wrong_genotype_or_recipe_is_refused(tmp_path):
    with pytest.raises(OfaKitError, match="did you mean 'darts-v2'"):
        CellsRecipe.parse({"genotype": "darts-v3"}, "test")
    with pytest.raises(RecipeError, match="no genotype"):
        CellsRecipe.parse({}, "test")
    with pytest.raises(RecipeError, match="drop_path must be in"):
        CellsRecipe.parse({**TINY, "drop_path": 1.0}, "test")
    with pytest.raises(RecipeError, match="auxiliary_weight: 0"):
        train_cells({**TINY, "auxiliary_weight": 0.4}, tmp_path / "run")


def test_the_command_lines_search_and_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = Typer()
    app.command("darts")(darts)
    app.command("train-cells")(train_cells_cli)
    runner = CliRunner()
    tiny = ["cells=3", "channels=4", "nodes=2", "images=100", "batch_size=16", "network_cells=3", "network_channels=4"]
    options = [word for setting in tiny for word in ("--set", setting)]
    done = runner.invoke(
        app, ["darts", "--data", "digits", "--run", "a", "--epochs", "1", "--order", "first", *options]
    )
    assert done.exit_code == 0, done.output
    assert "genotype  Genotype(normal=[" in done.output
    tiny = ["cells=3", "channels=4", "images=100", "batch_size=16", "auxiliary_weight=0", "cutout=0"]
    options = [word for setting in tiny for word in ("--set", setting)]
    command = ["train-cells", "--genotype", "runs/a/genotype.txt", "--data", "digits", "--run", "b", "--epochs", "1"]
    done = runner.invoke(app, [*command, *options, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["test_images"] > 100
    assert isinstance(runner.invoke(app, ["darts"]).exception, OfaKitError)
