"""NAS-RL's recurrent cell: children are trained, rewards are learned from, and a kill costs nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ofa_kit.commands.search_nas_rl import Training, search_nas_rl
from ofa_kit.config import read_yaml
from ofa_kit.data.text import open_text
from ofa_kit.data.text_batches import columns
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError, RecipeError
from ofa_kit.nas.nas_rl.recurrent_recipe import RlRecurrentRecipe, RlTextRecipe
from ofa_kit.nas.nas_rl.recurrent_search import CHILDREN, COLUMNS, Children, TreeSearch, fresh_policy
from ofa_kit.nas.recurrent.dropout import DropoutRates
from ofa_kit.nas.recurrent.recipe import TrainRecipe
from ofa_kit.nas.recurrent.retrain import TrainWork
from ofa_kit.nas.recurrent.reward import RewardRecipe
from ofa_kit.nas.recurrent.tree import PRESETS, read_tree, write_tree
from ofa_kit.nas.reinforce.policy import PolicyRecipe
from ofa_kit.storage import read_rows
from ofa_kit.training.epochs import work_through

NAS_CELL = PRESETS["nas-cell"]
CHILD = TrainRecipe(hidden=6, epochs=2, batch=6, bptt=8, lr=2.0, init_range=0.3, dropout=DropoutRates(output=0.1))
QUICK = """
name: quick
backend: onnxruntime
protocol: {sessions: 1, rounds_per_block: 2, pause_s: 0.0, warmup_runs: 2, warmup_s: 0.0}
"""
TINY = {
    "search": {
        "base": 2,
        "rounds": 2,
        "children": 2,
        "child": {"hidden": 8, "epochs": 1, "batch": 16, "bptt": 30, "lr": 2.0},
        "controller": {"hidden": 6, "layers": 1},
    },
    "train": {"hidden": 10, "epochs": 1, "batch": 16, "bptt": 30, "lr": 2.0},
    "evaluation_batch": 2,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tree_search(folder, judge=None, latency=None, **changes):
    recipe = RlTextRecipe(**{"base": 2, "rounds": 2, "children": 2, "child": CHILD} | changes)
    if judge is None:
        text = open_text("sonnets", most_words=30)
        parts = columns(text.train[:200], 6), columns(text.validation[:60], 2)
        judge = Children(30, *parts, recipe.child, 5, torch.device("cpu"))
    return TreeSearch(fresh_policy(recipe, seeded(3)), judge, recipe, folder / "metrics.csv", 5, latency)


class KilledError(Exception):
    pass


def test_a_search_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    def run(name, kill_at=None):
        search, done = tree_search(tmp_path / name, child=replace(CHILD, epochs=1)), []

        def watch(seen):
            done.append(seen)
            if len(done) == kill_at:
                raise KilledError

        work_through(search, tmp_path / name / "last", checkpoint_s=0, watch=watch)
        return search

    whole = run("whole")
    for kill_at in (1, 3):
        with pytest.raises(KilledError):
            run("killed", kill_at)
        torch.manual_seed(kill_at)
    resumed = run("killed")
    first, second = whole.state(), resumed.state()
    assert first[1] == second[1]
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    for name, titles in (("metrics.csv", COLUMNS), ("children.csv", CHILDREN)):
        rows = [read_rows(tmp_path / part / name, titles) for part in ("whole", "killed")]
        for row in rows[0] + rows[1]:
            row.pop("elapsed_s", None)
        assert rows[0] == rows[1]
    assert len(rows[0]) == 4
    assert not list((tmp_path / "killed").glob("child-*"))


def test_a_child_that_was_killed_goes_on_where_it_stood(tmp_path, monkeypatch):
    children = tree_search(tmp_path).children
    monkeypatch.setattr("ofa_kit.nas.nas_rl.recurrent_search.CHECKPOINT_S", 0.0)
    step, count, deadly = TrainWork.step, [], []

    def counted(self, *arguments):
        count.append(1)
        if len(count) in deadly:
            raise KilledError
        return step(self, *arguments)

    monkeypatch.setattr(TrainWork, "step", counted)
    whole, steps = children.perplexity(NAS_CELL, tmp_path / "whole"), len(count)
    count.clear()
    deadly.append(7)
    with pytest.raises(KilledError):
        children.perplexity(NAS_CELL, tmp_path / "killed")
    assert (tmp_path / "killed" / "last.safetensors").exists()
    assert children.perplexity(NAS_CELL, tmp_path / "killed") == whole
    assert len(count) == steps + 1  # the step under way alone is done again
    assert not (tmp_path / "killed").exists()


def test_a_child_that_diverges_earns_nothing_and_the_search_goes_on(tmp_path):
    wild = replace(CHILD, lr=1e30, clip=1e30)
    search = tree_search(tmp_path, child=wild, base=4, children=3)
    work_through(search, tmp_path / "last", checkpoint_s=60)
    rows = read_rows(tmp_path / "children.csv", CHILDREN)
    lost = [row for row in rows if row["validation_perplexity"] == "inf"]
    assert lost
    assert all(float(row["reward"]) == 0 for row in lost)


class Planted:
    """Says how good a tree is by its labels, without training: the more `tanh`, the better."""

    def perplexity(self, genotype, folder):
        return 80.0 / (1 + [activation for _, activation in genotype.nodes].count("tanh"))


def test_the_controller_finds_what_the_reward_is_planted_in(tmp_path):
    policy = PolicyRecipe(lr=0.02, baseline_decay=0.8)
    reward = RewardRecipe(power=1.0)
    search = tree_search(tmp_path, Planted(), base=4, rounds=40, children=8, policy=policy, reward=reward)
    work_through(search, tmp_path / "last", checkpoint_s=60)
    rows = read_rows(tmp_path / "metrics.csv", COLUMNS)
    assert sum(float(row["reward"]) for row in rows[-5:]) > 1.8 * sum(float(row["reward"]) for row in rows[:5])
    assert float(rows[-1]["entropy"]) < float(rows[0]["entropy"])
    best = max(float(row["reward"]) for row in read_rows(tmp_path / "children.csv", CHILDREN))
    found = Planted().perplexity(search.genotype, tmp_path)
    assert 80.0 / found == best


def test_a_cell_that_is_drawn_again_keeps_its_result(tmp_path):
    class Counting(Planted):
        seen: list[str] = []  # noqa: RUF012

        def perplexity(self, genotype, folder):
            self.seen.append(write_tree(genotype))
            return super().perplexity(genotype, folder)

    search = tree_search(tmp_path, Counting(), base=1, rounds=30, children=4)
    work_through(search, tmp_path / "last", checkpoint_s=60)
    assert len(Counting.seen) == len(set(Counting.seen)) < 120
    assert set(Counting.seen) == set(search.perplexities)


def test_latency_enters_the_reward(tmp_path):
    search = tree_search(
        tmp_path, Planted(), latency=lambda tree: 4.0, reward=RewardRecipe(latency_target_ms=1.0, latency_weight=-0.5)
    )
    text = next(search.batches(0, 0))
    reward = search.step(text, 0, 0)["reward"]
    assert reward == pytest.approx(80 / Planted().perplexity(text, tmp_path) / 2)


def test_a_limit_that_nothing_meets_says_what_the_fastest_takes(tmp_path):
    class Untrained:
        def perplexity(self, genotype, folder):
            raise AssertionError("a cell that earns nothing is not trained")

    hard = RewardRecipe(latency_target_ms=1.0, latency_hard=True)
    search = tree_search(tmp_path, Untrained(), latency=lambda tree: 4.0 + tree.memory_from, reward=hard)
    work_through(search, tmp_path / "last", checkpoint_s=60)
    fastest = min(float(row["latency_ms"]) for row in read_rows(tmp_path / "children.csv", CHILDREN))
    with pytest.raises(
        InfeasibleBudgetError, match=f"no cell takes 1 ms a token; the fastest .* takes {fastest:.4f} ms"
    ):
        _ = search.genotype


def test_the_command_searches_trains_exports_and_goes_on(tmp_path):
    (tmp_path / "quick.yaml").write_text(QUICK)
    values = {**TINY, "device": str(tmp_path / "quick.yaml")}
    values["search"] = values["search"] | {"reward": {"power": 2.0, "latency_target_ms": 0.02}}
    folder = tmp_path / "run"
    found = search_nas_rl({**values, "kind": "recurrent"}, folder)
    assert read_tree((folder / "genotype.txt").read_text()) == found.genotype
    children = read_rows(folder / "search" / "children.csv", CHILDREN)
    assert len(children) == 4
    for row in children:
        factor = (float(row["latency_ms"]) / 0.02) ** -0.07
        assert float(row["reward"]) == pytest.approx(80 / float(row["validation_perplexity"]) ** 2 * factor)
    best = max(children, key=lambda row: float(row["reward"]))
    assert read_tree(best["genotype"]) == found.genotype
    cell, lstm = (found.trained[name].model for name in ("cell", "lstm"))
    assert abs(lstm.params / cell.params - 1) < 0.05
    for model in found.values()["models"].values():
        assert model["onnx_max_relative_difference"] < 1e-4
        assert model["token_latency_ms"] > 0
    assert (folder / "cell.png").read_bytes()[:4] == b"\x89PNG"
    shutil.rmtree(folder / "cell")
    with pytest.raises(OfaKitError, match="leave out --engine and --processes"):
        search_nas_rl({}, folder, resume=True, how=Training(processes=2))
    again = search_nas_rl({}, folder, resume=True)
    assert again.trained["cell"].test_perplexity == found.trained["cell"].test_perplexity


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {"base": 0}}, "base must be at least 1"),
        ({"search": {"child": {"lr": 0}}}, r"search.child.lr must be above 0"),
        ({"search": {"reward": {"latency_target_ms": 1.0}}}, "needs a device"),
        ({"search": {"reward": {"latency_target_ms": -1.0}}}, "above 0"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values, message):
    with pytest.raises(RecipeError, match=message):
        RlRecurrentRecipe.parse(values, "test.yaml")


def test_the_recipe_of_penn_treebank_is_the_published_one():
    recipe = RlRecurrentRecipe.parse(read_yaml(Path("profiles/recipes/nas-rl-rnn-ptb.yaml")), "ptb")
    assert (recipe.search.base, recipe.search.rounds * recipe.search.children) == (8, 15_000)
    assert replace(recipe.search, child=RlTextRecipe().child) == RlTextRecipe()
