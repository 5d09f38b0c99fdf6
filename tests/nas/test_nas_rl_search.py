"""`search nas-rl` as a command: what it writes, that a kill changes nothing, and latency in the reward."""

import csv
import dataclasses
import json
import shutil

import onnxruntime
import pytest

from ofa_kit.commands.search_nas_rl import Training, search_nas_rl
from ofa_kit.errors import InfeasibleBudgetError, RecipeError, TableError, UnknownNameError
from ofa_kit.nas.nas_rl.children import COLUMNS, Children
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.nas.nas_rl.text import read_conv_net
from ofa_kit.nas.nas_rl.training import ChildTrainer
from tests.conftest import ofa_kit_here
from tests.nas.nas_rl_children import TINY

QUICK = "name: quick\nbackend: onnxruntime\nprotocol: {sessions: 1, rounds_per_block: 3, pause_s: 0.0, warmup_s: 0.0}\n"
HERE = Training(processes=0)


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return search_nas_rl(TINY, tmp_path_factory.mktemp("nas-rl") / "whole", how=HERE)


def test_a_search_trains_children_learns_and_leaves_the_best_one_trained(whole):
    found, folder = whole, whole.folder
    children, rounds = rows_of(folder / "children.csv"), rows_of(folder / "controller.csv")
    assert [row["number"] for row in children] == [str(number) for number in range(1, 9)]
    assert [(row["round"], row["layers"], row["failed"]) for row in rounds] == [("1", "2", "0"), ("2", "3", "0")]
    assert [len(read_conv_net(row["text"]).layers) for row in children] == [2] * 4 + [3] * 4
    for row in children:
        assert float(row["reward"]) == pytest.approx((float(row["top1"]) / 100) ** 3, abs=1e-6)
    assert float(rounds[1]["mean_reward"]) == pytest.approx(
        sum(float(row["reward"]) for row in children[4:]) / 4, abs=1e-5
    )
    assert float(rounds[1]["baseline"]) == pytest.approx(float(rounds[0]["mean_reward"]), abs=1e-5)
    best = max(children, key=lambda row: float(row["reward"]))
    assert (found.net, found.child) == (read_conv_net(best["text"]), int(best["number"]))
    assert read_conv_net((folder / "network.txt").read_text()) == found.net
    session = onnxruntime.InferenceSession(found.model, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["ofa_kit.network"] == best["text"]
    assert (folder / "network.svg").exists()
    assert json.loads((folder / "result.json").read_text())["params"] == int(best["params"])
    assert search_nas_rl({}, folder, resume=True) == found


def test_rows_without_a_checkpoint_are_enough_to_go_on(whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "children.csv", "controller.csv"):
        shutil.copy(whole.folder / name, folder)
    monkeypatch.setattr(ChildTrainer, "train", None)
    assert dataclasses.replace(search_nas_rl({}, folder, resume=True, how=HERE), folder=whole.folder) == whole
    assert rows_of(folder / "controller.csv") == rows_of(whole.folder / "controller.csv")


def test_rows_of_another_search_are_refused(whole, tmp_path):
    search_nas_rl({**TINY, "seed": 1, "children": 2}, tmp_path / "run", how=HERE)
    for name in ("result.json", "checkpoints/last.safetensors"):
        (tmp_path / "run" / name).unlink()
    shutil.copy(whole.folder / "children.csv", tmp_path / "run")
    with pytest.raises(TableError, match="holds another child 1 than this search samples"):
        search_nas_rl({}, tmp_path / "run", resume=True, how=HERE)


def test_equal_children_are_trained_once(tmp_path, monkeypatch):
    trained, train = [], ChildTrainer.train
    monkeypatch.setattr(ChildTrainer, "train", lambda self, net: trained.append(net.key) or train(self, net))
    few = {**TINY, "filter_heights": [1, 3], "filter_widths": [3], "filters": [2], "layers": 1, "deepen_every": 0}
    search_nas_rl(few, tmp_path / "run", how=HERE)
    children = rows_of(tmp_path / "run" / "children.csv")
    assert len(children) == 8
    assert len(trained) == len(set(trained)) == len({row["key"] for row in children}) == 2
    assert len({(row["key"], row["reward"]) for row in children}) == 2


def test_latency_is_measured_and_moves_the_reward(tmp_path):
    (tmp_path / "quick.yaml").write_text(QUICK)
    values = {**TINY, "children": 3, "device": str(tmp_path / "quick.yaml"), "latency_target_ms": 0.01}
    found = search_nas_rl({**values, "latency_weight": -0.5}, tmp_path / "soft", how=HERE)
    for row in rows_of(tmp_path / "soft" / "children.csv"):
        factor = (float(row["latency_ms"]) / 0.01) ** -0.5
        assert float(row["reward"]) == pytest.approx((float(row["top1"]) / 100) ** 3 * factor, rel=1e-3, abs=1e-6)
    assert found.latency.latency_ms > 0
    hard = {**values, "latency_target_ms": 1e-9, "latency_hard": True}
    with pytest.raises(InfeasibleBudgetError, match=r"none of 3 children runs in 1e-09 ms .* \(measured\)"):
        search_nas_rl(hard, tmp_path / "hard", how=HERE)
    rows = rows_of(tmp_path / "hard" / "children.csv")
    assert {(row["top1"], row["reward"], row["seconds"], row["error"]) for row in rows} == {("", "0.0", "0.0", "")}


def test_rows_round_trip_and_damage_is_told(tmp_path):
    search_nas_rl({**TINY, "children": 2}, tmp_path / "run", how=HERE)
    path = tmp_path / "run" / "children.csv"
    for child, row in zip(Children(path).all.values(), rows_of(path), strict=True):
        assert {key: str(value) for key, value in child.to_row().items()} == row
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text[:2], text[2].replace(text[2].split(",")[2], "0" * 12)]) + "\n")
    with pytest.raises(TableError, match="line 3 is damaged: key 000000000000 is not that of its text"):
        Children(path)
    path.write_text(text[0] + "\n" + ",".join("x" for _ in COLUMNS) + "\n")
    with pytest.raises(TableError, match="line 2 is damaged"):
        Children(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"filter_heights": [2]}, "filter_heights must be odd"),
        ({"filters": [4, 4]}, "filters must list different numbers"),
        ({"filters": []}, "filters must list different numbers"),
        ({"filter_heights": [3], "filter_widths": [3], "filters": [4]}, "one choice only"),
        ({"latency_target_ms": 1.0}, "needs a device"),
        ({"latency_hard": True}, "need latency_target_ms"),
        ({"device": "cpu-ort", "latency_target_ms": 1.0, "latency_weight": 0.1}, "rewards slow networks"),
        ({"baseline_decay": 1.0}, "baseline_decay must be in"),
        ({"lr": 0}, "lr must be above 0"),
        ({"round_size": 0}, "round_size must be at least 1"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values, message):
    with pytest.raises(RecipeError, match=message):
        NasRlRecipe.parse(values, "test")


def test_a_kind_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown kind of network 'cnm'; did you mean 'cnn'"):
        search_nas_rl({"kind": "cnm"}, tmp_path / "run")


def test_the_command_line_prints_what_was_found(tmp_path):
    settings = [word for key, value in {**TINY, "children": 2}.items() for word in ("--set", f"{key}={value}")]
    done = ofa_kit_here("search", "nas-rl", "--run", "a", "--processes", "0", *settings, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["children"] == 2
    again = ofa_kit_here("search", "nas-rl", "--run", "a", "--resume", cwd=tmp_path)
    assert "network   " in again.out
    assert ofa_kit_here("search", "nas-rl", cwd=tmp_path).code == 2
