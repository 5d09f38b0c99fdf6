"""The micro search as a command: what it writes, that a kill changes nothing, latency in the reward."""

import csv
import dataclasses
import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner

from ofa_kit.cli.search_darts import darts
from ofa_kit.cli.search_enas import enas
from ofa_kit.commands.search_enas import KINDS, search_enas
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError, RecipeError, RunError
from ofa_kit.nas.cells.arc import write_arc
from ofa_kit.nas.cells.measured import network_name
from ofa_kit.nas.cells.presets import find_genotype
from ofa_kit.nas.cells.text import write_genotype
from ofa_kit.nas.enas.micro_recipe import MicroRecipe
from ofa_kit.nas.enas.micro_search import MicroSearch
from ofa_kit.nas.reinforce.reward import LatencyTerm
from ofa_kit.training.schedule import restarted_cosine
from tests.nas.enas_children import go_on_and_be_killed
from tools.command_processes import start_process

TINY = {"kind": "micro", "data": "digits", "images": 100, "held_out": 0.3, "cells": 3, "channels": 4, "nodes": 2}
TINY |= {"epochs": 2, "batch_size": 15, "controller_updates": 2, "controller_samples": 3, "derive_samples": 4}
TINY |= {"reward_images": 20}
TINY |= {"network_cells": 2, "network_channels": 4}
QUICK = "name: quick\nbackend: onnxruntime\nprotocol: {sessions: 1, rounds_per_block: 3, pause_s: 0.0, warmup_s: 0.0}\n"


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def timeless(path):
    return [{key: value for key, value in row.items() if key != "elapsed_s"} for row in rows_of(path)]


def search_of(tmp_path, **values):
    recipe = MicroRecipe.parse({**TINY, **values}, "test")
    return MicroSearch(recipe, open_dataset("digits", photo_size=8), tmp_path, torch.device("cpu"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search that nothing interrupted."""
    return search_enas({**TINY, "checkpoint_s": 0.0}, tmp_path_factory.mktemp("whole") / "run")


def test_a_search_finds_draws_and_logs(whole):
    folder = whole.folder
    assert find_genotype(str(folder / "genotype.txt")) == find_genotype(str(folder / "arc.txt")) == whole.genotype
    log = rows_of(folder / "search.csv")
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert all(0 < float(row["reward"]) <= float(row["best_reward"]) <= 1 for row in log)
    assert all(float(row["train_loss"]) > 0.5 and row["latency_ms_predicted"] == "" for row in log)
    most = 2 * 2 * 2 * float(torch.tensor([2.0, 3.0]).log().mean() + torch.tensor(5.0).log())
    assert all(0.8 * most < float(row["entropy"]) <= most for row in log)
    judged = rows_of(folder / "derived.csv")
    assert len(judged) == 4
    best = max(judged, key=lambda row: float(row["reward"]))
    assert find_genotype(best["genotype"]) == whole.genotype
    assert float(best["top1"]) == pytest.approx(100 * float(best["reward"]), abs=0.01)
    for name in ("normal", "reduce"):
        assert (folder / f"{name}.svg").read_text().lstrip().startswith("<?xml")
    assert whole.shape.layout == "enas"
    assert search_enas({}, folder, resume=True) == whole
    with pytest.raises(RunError, match="exists; go on with --resume"):
        search_enas(TINY, folder)


def test_killed_and_resumed_is_as_if_it_had_not_been(whole, tmp_path, monkeypatch):
    """Stopped while the child learns, killed without warning while the controller does, stopped while judging cells."""
    folder, move, correct = tmp_path / "cut", MicroSearch.step, MicroSearch.correct

    def stopped_in_the_second_epoch(self, batch, epoch, step):
        if (epoch, step) == (1, 1):
            raise KilledError
        return move(self, batch, epoch, step)

    def stopped_while_judging(self, genotype, batch):
        if (folder / "derived.csv").exists():
            raise KilledError
        return correct(self, genotype, batch)

    monkeypatch.setattr(MicroSearch, "step", stopped_in_the_second_epoch)
    with pytest.raises(KilledError):
        search_enas({**TINY, "checkpoint_s": 0.0}, folder)
    monkeypatch.undo()
    process = start_process(go_on_and_be_killed, folder)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [row["epoch"] for row in rows_of(folder / "search.csv")] == ["1"]
    monkeypatch.setattr(MicroSearch, "correct", stopped_while_judging)
    with pytest.raises(KilledError):
        search_enas({}, folder, resume=True)
    monkeypatch.undo()
    assert len(rows_of(folder / "derived.csv")) == 1
    resumed = search_enas({}, folder, resume=True)
    assert dataclasses.replace(resumed, folder=whole.folder) == whole
    ends = [load_file(place / "checkpoints" / "last.safetensors") for place in (whole.folder, folder)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(name.startswith("controller/") for name in ends[0])
    for log in ("search.csv", "derived.csv"):
        assert timeless(whole.folder / log) == timeless(folder / log)


def test_the_child_learns_more_than_to_guess_and_the_controller_moves(tmp_path):
    search = search_of(tmp_path, images=900, batch_size=20, cells=1, channels=8)
    start = {name: tensor.clone() for name, tensor in search.policy.controller.state_dict().items()}
    for epoch in range(3):
        for step, batch in enumerate(search.batches(epoch, 0)):
            search.step(batch, epoch, step)
    assert any(not torch.equal(tensor, start[name]) for name, tensor in search.policy.controller.state_dict().items())
    genotype = search.best.arch
    batches = search.held_batches()
    right = sum(search.correct(genotype, batch) for batch in batches) / sum(len(y) for _, y in batches)
    assert right > 0.2, "a guess is right in one of ten"
    assert len({int(label) for label in batches[0][1]}) > 5, "batches are shuffled: each has most classes"


def test_an_epoch_resumed_in_its_middle_sees_the_same_batches(tmp_path):
    search = search_of(tmp_path)
    batches = list(search.batches(1, 0))
    assert len(batches) == search.steps_per_epoch
    for start in (2, search.child_steps, search.steps_per_epoch - 1):
        later = list(search.batches(1, start))
        assert len(later) == search.steps_per_epoch - start
        assert all(torch.equal(a[0], b[0]) for a, b in zip(batches[start:], later, strict=True))
    learned, held = ({int(i) for i in part.indices} for part in (search.learned, search.held))
    assert not learned & held


def test_the_reward_is_accuracy_times_the_latency_factor(tmp_path):
    (tmp_path / "quick.yaml").write_text(QUICK)
    values = {**TINY, "device": str(tmp_path / "quick.yaml"), "latency_target_ms": 0.01, "latency_weight": -0.5}
    found = search_enas({**values, "nodes": 1, "epochs": 1, "network_channels": 8}, tmp_path / "run")
    log = rows_of(tmp_path / "run" / "search.csv")[0]
    term = LatencyTerm.of(0.01, -0.5)
    for row in rows_of(tmp_path / "run" / "derived.csv"):
        factor = term.factor(float(row["latency_ms_predicted"]))
        assert float(row["reward"]) == pytest.approx(float(row["top1"]) / 100 * factor, abs=0.01)
    assert float(log["sampled_ms_predicted"]) > 0
    assert found.latency.latency_ms > 0
    assert found.latency_ms_predicted > 0
    measured = {row["name"] for row in rows_of(tmp_path / "run" / "times-quick.csv")}
    assert network_name(found.shape, found.genotype) in measured
    assert any(name.startswith("input1-") for name in measured), "what reads the joined nodes is timed"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latency_target_ms": 1.0}, "needs a device"),
        ({"latency_weight": -0.2}, "need latency_target_ms"),
        ({"latency_target_ms": 1.0, "device": "cpu-ort", "latency_weight": 0.5}, "rewards slow networks"),
        ({"held_out": 1.0}, "held_out must be between"),
        ({"kind": "mikro"}, "kind: Input should be 'micro'"),
        ({"chanels": 4}, "did you mean 'channels'"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values, message):
    with pytest.raises(OfaKitError, match=message):
        MicroRecipe.parse({**TINY, **values}, "test")


def test_the_kind_decides_what_is_searched(tmp_path):
    assert "micro" in KINDS
    with pytest.raises(OfaKitError, match="did you mean 'micro'"):
        search_enas({"kind": "mikro"}, tmp_path / "run")
    with pytest.raises(RecipeError, match="give --kind micro"):
        search_enas({"data": "digits"}, tmp_path / "run")
    with pytest.raises(RunError, match="nothing to resume"):
        search_enas({}, tmp_path / "none", resume=True)


def test_the_rate_of_the_child_restarts():
    rates = [restarted_cosine(0.05, 5e-4, epoch, first=10, factor=2) for epoch in (0, 5, 9.99, 10, 20, 29.99, 30, 70)]
    assert rates == pytest.approx([0.05, 0.02525, 5e-4, 0.05, 0.02525, 5e-4, 0.05, 0.05], abs=1e-5)


def test_the_command_line_searches_what_train_cells_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = Typer()
    app.command("enas")(enas)
    app.command("darts")(darts)
    options = [w for key, value in TINY.items() if key not in ("kind", "data") for w in ("--set", f"{key}={value}")]
    command = ["enas", "--kind", "micro", "--data", "digits", "--run", "a", "--epochs", "1", *options, "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    genotype = find_genotype(found["arc"])
    assert (write_genotype(genotype), write_arc(genotype)) == (found["genotype"], found["arc"])
    assert "--set layout=enas" in CliRunner().invoke(app, ["enas", "--run", "a", "--resume"]).output
    assert isinstance(CliRunner().invoke(app, ["enas"]).exception, OfaKitError)
