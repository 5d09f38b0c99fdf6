"""`search nas-rl` as a command: what it writes, that a kill changes nothing, and latency in the reward."""

import contextlib
import csv
import dataclasses
import json
import time
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from ofa_kit.commands.search_nas_rl import Training, search_nas_rl
from ofa_kit.errors import InfeasibleBudgetError, RecipeError, TableError, UnknownNameError
from ofa_kit.nas.nas_rl.children import COLUMNS, Children
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.nas.nas_rl.text import read_conv_net
from ofa_kit.nas.nas_rl.training import ChildTrainer
from tests.commands.processes import kill_when
from tests.conftest import ofa_kit_here
from tests.nas.test_nas_rl_engines import TINY

QUICK = "name: quick\nbackend: onnxruntime\nprotocol: {sessions: 1, rounds_per_block: 3, pause_s: 0.0, warmup_s: 0.0}\n"
HERE = Training(processes=0)


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def untimed(path):
    return sorted(
        ({k: v for k, v in row.items() if k != "seconds"} for row in rows_of(path)), key=lambda row: int(row["number"])
    )


def test_a_search_trains_children_learns_and_leaves_the_best_one_trained(tmp_path):
    found = search_nas_rl(TINY, tmp_path / "run", how=HERE)
    folder = tmp_path / "run"
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


def processes_of(folder):
    """Return the processes on whose command line a folder stands, and those that they started; [] without /proc."""
    parent_of, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent_of[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if str(folder) in (path / "cmdline").read_text():
                found.append(int(path.name))
    for parent in found:
        found += [pid for pid, of in parent_of.items() if of == parent and pid not in found]
    return found


def test_killed_9_in_a_round_and_resumed_is_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = search_nas_rl(TINY, tmp_path / "whole", how=HERE)
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    rows = tmp_path / "cut" / "children.csv"
    command = ["search", "nas-rl", "--run", str(rows.parent), "--processes", "1", *settings]
    started: list[int] = []

    def happened():
        if rows.exists() and rows.read_bytes().count(b"\n") > 5:
            started.extend(processes_of(rows.parent))
            return True
        return False

    kill_when(happened, *command, cwd=tmp_path)
    end_s = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started), "processes outlive the search that they served"
    assert not started or len(started) >= 3, "the search, the server of processes and a process of it"
    kept = rows_of(rows)
    assert 5 <= len(kept) < 8, "it was killed in the second round"
    trained, train = [], ChildTrainer.train
    monkeypatch.setattr(ChildTrainer, "train", lambda self, net: trained.append(net.key) or train(self, net))
    resumed = search_nas_rl({}, rows.parent, resume=True, how=HERE)
    assert not {row["key"] for row in kept} & set(trained), "what has a row is not trained again"
    assert dataclasses.replace(resumed, folder=whole.folder) == whole
    assert untimed(rows) == untimed(tmp_path / "whole" / "children.csv")
    assert rows_of(rows.with_name("controller.csv")) == rows_of(tmp_path / "whole" / "controller.csv")
    for name in ("last", "final"):
        ends = [load_file(tmp_path / run / "checkpoints" / f"{name}.safetensors") for run in ("whole", "cut")]
        assert ends[0].keys() == ends[1].keys()
        assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


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
