"""ENAS's recurrent cell: shared weights are those of the cells, a killed search ends the same, and it learns."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from ofa_kit.commands.search_enas import search_enas
from ofa_kit.commands.search_recurrent import search_recurrent
from ofa_kit.config import read_yaml
from ofa_kit.data.text import open_text
from ofa_kit.data.text_batches import columns
from ofa_kit.errors import RecipeError, RunError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import TimingProtocol
from ofa_kit.nas.enas.recurrent_cell import MOST_NORM, SharedCell, rows_of
from ofa_kit.nas.enas.recurrent_controller import CellController, from_tokens, tokens_of
from ofa_kit.nas.enas.recurrent_recipe import ControllerRecipe, EnasRecurrentRecipe, EnasTextRecipe
from ofa_kit.nas.enas.recurrent_search import ROUND_LOG, EnasTextWork, Round, fresh_policy
from ofa_kit.nas.recurrent.cell import GenotypeCell
from ofa_kit.nas.recurrent.dropout import DropoutRates
from ofa_kit.nas.recurrent.genotype import FUNCTIONS, read_genotype
from ofa_kit.nas.recurrent.language_model import LanguageModel
from ofa_kit.nas.recurrent.latency import MeasuredCells, PredictedCells, uniform_cell
from ofa_kit.nas.recurrent.reward import RewardRecipe, reward_of
from ofa_kit.nas.reinforce.policy import PolicyRecipe
from ofa_kit.nas.times import Times
from ofa_kit.storage import read_rows
from ofa_kit.training.epochs import work_through

SOME = DropoutRates(embedded=0.1, cell_state=0.2, weights=0.2)
QUICK = """
name: quick
backend: onnxruntime
protocol: {sessions: 1, rounds_per_block: 2, pause_s: 0.0, warmup_runs: 2, warmup_s: 0.0}
"""
TINY = {
    "search": {"nodes": 3, "hidden": 8, "epochs": 1, "batch": 16, "bptt": 30, "lr": 2.0, "rounds": 2, "samples": 2}
    | {"derive_samples": 3, "reward_rows": 5, "controller": {"hidden": 8}},
    "train": {"hidden": 10, "epochs": 1, "batch": 16, "bptt": 30, "lr": 2.0},
    "evaluation_batch": 2,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def search_work(folder=Path("unused"), latency=None, **changes):
    small = {"hidden": 6, "nodes": 4, "batch": 6, "bptt": 8, "lr": 2.0, "init_range": 0.3, "dropout": SOME}
    recipe = EnasTextRecipe(
        **small
        | {"epochs": 2, "rounds": 3, "samples": 2, "derive_samples": 4, "controller": ControllerRecipe(hidden=12)}
        | changes
    )
    text = open_text("sonnets", most_words=30)
    cell = SharedCell(recipe.nodes - 1, recipe.hidden, seeded(1), init_range=recipe.init_range)
    model = LanguageModel(cell, text.info.words, seeded(2), init_range=0.3)
    train, validation = columns(text.train[:200], recipe.batch), columns(text.validation[:60], recipe.batch)
    policy = fresh_policy(recipe, seeded(3))
    return EnasTextWork(model, policy, train, validation, recipe, folder / "metrics.csv", 5, latency)


@pytest.mark.parametrize("nodes", [1, 4, 11])
def test_every_sampled_cell_has_its_tokens_and_a_mean_of_all_that_none_reads(nodes):
    controller = CellController(nodes, seeded(), hidden=10, init_range=2.0)
    tokens = controller.sample(40, seeded(1)).tokens
    assert tokens.shape == (40, 2 * nodes + 1)
    for row in tokens.tolist():
        genotype = from_tokens(row)
        assert tokens_of(genotype) == row
        read = {source for _, source in genotype.nodes}
        assert read | set(genotype.concat) == set(range(nodes + 1))
    if nodes == 11:
        assert {source for row in tokens.tolist() for source in row[-2:-1]} > {0, 10}  # the last node reads any other


def test_the_controller_keeps_its_logits_within_the_tanh_constant():
    controller = CellController(3, seeded(), hidden=10, init_range=50.0, tanh_constant=0.5)
    decisions = controller.sample(100, seeded(1))
    most = torch.tensor([0.5, -0.5, -0.5, -0.5]).log_softmax(0)
    assert (decisions.log_prob >= 7 * F.log_softmax(torch.tensor([-0.5, 0.5, 0.5, 0.5]), 0)[0]).all()
    assert (decisions.log_prob <= 4 * most[0]).all()


@pytest.mark.parametrize("dropout", [False, True])
def test_shared_weights_compute_what_the_cell_itself_computes(dropout):
    genotype = from_tokens([3, 0, 1, 1, 0, 0, 2, 2, 3])
    shared, alone = SharedCell(4, 7, seeded(), init_range=0.4), GenotypeCell(genotype, 7, seeded())
    models = [LanguageModel(cell, 20, seeded(2), init_range=0.4) for cell in (shared, alone)]
    with torch.no_grad():
        alone.input_weight.copy_(shared.input_weight)
        alone.state_weight.copy_(shared.state_weight)
        alone.node_weights.copy_(shared.edge_weights[rows_of(genotype)])
    tokens = torch.randint(0, 20, (6, 3), generator=seeded(3))
    masks = [model.mask_drawer(DropoutRates(cell_state=0.3, embedded=0.2), 3).draw(seeded(4)) for model in models]
    if not dropout:
        masks = [model.mask_drawer(DropoutRates(), 3).draw(seeded(4)) for model in models]
    first = models[0](tokens, shared.start(3), masks[0], genotype)
    second = models[1](tokens, alone.start(3), masks[1])
    assert torch.allclose(first.logits, second.logits, atol=1e-6)
    first.logits.square().sum().backward()
    second.logits.square().sum().backward()
    assert torch.allclose(shared.edge_weights.grad[rows_of(genotype)], alone.node_weights.grad, rtol=1e-4, atol=1e-5)
    others = [row for row in range(len(shared.edge_weights)) if row not in rows_of(genotype)]
    assert not shared.edge_weights.grad[others].any()


def test_weight_drop_of_shared_weights_is_that_of_the_matrices_in_use():
    cell = SharedCell(3, 5, seeded(), init_range=0.4)
    model = LanguageModel(cell, 9, seeded())
    masks = model.mask_drawer(DropoutRates(weights=0.5), 2).draw(seeded(1))
    genotype = from_tokens([0, 0, 1, 1, 2, 1, 3])
    found = cell.matrices(masks, genotype)
    expected = (cell.edge_weights * masks.weights["edge_weights"])[rows_of(genotype)]
    assert torch.equal(found["node_weights"], expected)
    assert 0.3 < float((found["node_weights"] == 0).double().mean()) < 0.7


def test_a_cell_that_blows_up_stays_bounded():
    cell = SharedCell(2, 8, seeded(), init_range=3.0)
    outputs, state = cell(torch.ones((40, 2, 8)), cell.start(2), choice=uniform_cell("relu", 3))
    assert outputs.norm(dim=-1).max() <= MOST_NORM * 1.001
    assert state[0].isfinite().all()


class KilledError(Exception):
    pass


def killing_after(calls):
    left = iter(range(calls, -1, -1))

    def watch(seen):
        if next(left) == 0:
            raise KilledError

    return watch


def test_a_search_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    whole = search_work(tmp_path / "whole")
    work_through(whole, tmp_path / "whole" / "last", checkpoint_s=60)
    for kill_at in (6, 5):  # among the controller's rounds of the first epoch, and in the second one
        killed = search_work(tmp_path / "killed")
        with pytest.raises(KilledError):
            work_through(killed, tmp_path / "killed" / "last", checkpoint_s=0, watch=killing_after(kill_at))
        torch.manual_seed(kill_at)  # hidden state must not matter
    resumed = search_work(tmp_path / "killed")
    work_through(resumed, tmp_path / "killed" / "last", checkpoint_s=60)
    first, second = whole.state(), resumed.state()
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert whole.derived() == resumed.derived()
    for name in ("metrics.csv", ROUND_LOG):
        rows = [
            read_rows(tmp_path / part / name, work.logs[tmp_path / part / name])
            for part, work in (("whole", whole), ("killed", resumed))
        ]
        for row in rows[0] + rows[1]:
            row.pop("elapsed_s", None)
        assert rows[0] == rows[1]
        assert len(rows[0]) == (2 if name == "metrics.csv" else 6)


def test_the_weights_learn_and_their_rate_falls():
    work = search_work(lr_decay=0.5, decay_start=2, lr=4.0)
    losses = []
    for epoch in range(8):
        for number, segment in enumerate(work.batches(epoch, 0)):
            if number < work.segments:
                losses.append(work.step(segment, epoch, number)["loss"])
        assert work.lr == 4.0 * 0.5 ** max(0, epoch - 1)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_the_controller_learns_to_avoid_what_is_slow():
    """Latency alone decides here: every sigmoid costs half of the reward."""
    reward = RewardRecipe(latency_target_ms=1.0, latency_weight=-1.0)
    policy = PolicyRecipe(lr=0.05, beta1=0.0, eps=1e-3, baseline_decay=0.8)

    def latency(genotype):
        return 2.0 ** [genotype.first, *(name for name, _ in genotype.nodes)].count("sigmoid")

    work = search_work(latency=latency, reward=reward, policy=policy, reward_rows=2, samples=10)

    def share():
        rows = work.policy.sample(200, seeded(8)).tokens.tolist()
        names = [name for row in rows for name in [from_tokens(row).first, *(f for f, _ in from_tokens(row).nodes)]]
        return names.count("sigmoid") / len(names)

    before = share()
    for number in range(40):
        work.move_controller(Round(number), 0, seeded(number))
    assert before > 0.2
    assert share() < 0.05


def test_a_cells_reward_is_what_both_papers_say_times_its_latency():
    assert reward_of(RewardRecipe(), 160.0, None) == pytest.approx(0.5)
    assert reward_of(RewardRecipe(power=2.0), 40.0, None) == pytest.approx(0.05)
    assert reward_of(RewardRecipe(), float("inf"), None) == 0.0
    assert reward_of(RewardRecipe(power=2.0), 1e304, None) == 0.0
    soft = RewardRecipe(latency_target_ms=2.0, latency_weight=-0.5)
    assert reward_of(soft, 80.0, 8.0) == pytest.approx(0.5)
    hard = RewardRecipe(latency_target_ms=2.0, latency_hard=True)
    assert (reward_of(hard, 80.0, 1.9), reward_of(hard, 80.0, 2.1)) == (1.0, 0.0)


def test_latency_is_predicted_from_cells_of_one_function_each(tmp_path):
    protocol = TimingProtocol(sessions=1, rounds_per_block=2, pause_s=0.0, warmup_runs=2, warmup_s=0.0)
    times = Times.open(
        tmp_path / "t.csv", backend_for(DeviceProfile(name="quick", backend="onnxruntime", protocol=protocol))
    )
    measured = MeasuredCells(times, hidden=16, words=30)
    predicted = PredictedCells(measured, 3)
    for function in FUNCTIONS:
        cell = uniform_cell(function, 3)
        assert predicted(cell) == pytest.approx(measured(cell))
    mixed = read_genotype("Genotype(recurrent=[('relu', 0), ('tanh', 0)], concat=[1, 2], first='relu')")
    relu, tanh = (predicted.latency_ms[name] for name in ("relu", "tanh"))
    assert predicted(mixed) == pytest.approx((2 * relu + tanh) / 3)
    again = PredictedCells(MeasuredCells(Times.open(tmp_path / "t.csv", times.backend), hidden=16, words=30), 3)
    assert again.latency_ms == predicted.latency_ms


def test_the_command_searches_trains_exports_and_goes_on(tmp_path):
    (tmp_path / "quick.yaml").write_text(QUICK)
    values = {**TINY, "kind": "recurrent", "device": str(tmp_path / "quick.yaml")}
    values["search"] = values["search"] | {"reward": {"latency_target_ms": 0.02}}
    folder = tmp_path / "run"
    found = search_enas(values, folder)
    assert read_genotype((folder / "genotype.txt").read_text()) == found.genotype
    assert len(found.genotype.nodes) == 2
    columns = ("rank", "genotype", "validation_perplexity", "latency_ms_predicted", "reward")
    derived = read_rows(folder / "search" / "derived.csv", columns)
    assert derived[0]["genotype"] == (folder / "genotype.txt").read_text().strip()
    assert float(derived[0]["latency_ms_predicted"]) > 0
    assert [float(row["reward"]) for row in derived] == sorted((float(row["reward"]) for row in derived), reverse=True)
    for model in found.values()["models"].values():
        assert model["onnx_max_relative_difference"] < 1e-4
        assert model["token_latency_ms"] > 0
    assert (folder / "cell.png").read_bytes()[:4] == b"\x89PNG"
    assert any(f"{found.trained['cell'].model.params:,} weights" in line for line in found.lines())
    with pytest.raises(RunError, match="exists; go on with --resume"):
        search_enas(values, folder)
    with pytest.raises(RunError, match="holds search enas, not search darts-rnn"):
        search_recurrent({}, folder, resume=True)
    shutil.rmtree(folder / "lstm")
    again = search_enas({}, folder, resume=True)
    assert again.trained["lstm"].test_perplexity == found.trained["lstm"].test_perplexity


def test_short_names_and_dots_reach_into_the_recipe():
    values = {"epochs": 3, "search.nodes": 5, "device": "cpu-ort", "latency_target_ms": 2.0, "search": {"samples": 4}}
    recipe = EnasRecurrentRecipe.parse(values, "test")
    assert (recipe.search.epochs, recipe.search.nodes, recipe.search.samples) == (3, 5, 4)
    assert recipe.search.reward.latency_target_ms == 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {"nodes": 1}}, "nodes must be at least 2"),
        ({"search": {"samples": 0}}, "samples must be at least 1"),
        ({"search": {"reward": {"latency_target_ms": 1.0}}}, "needs a device"),
        ({"search": {"reward": {"scale": 0}}}, "search.reward: scale must be above 0"),
        ({"search": {"lr_decay": 1.5}}, "lr_decay"),
        ({"search": {"lr": 0}}, r"search.lr must be above 0"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values, message):
    with pytest.raises(RecipeError, match=message):
        EnasRecurrentRecipe.parse(values, "test.yaml")


def test_the_recipe_of_penn_treebank_is_the_published_one():
    recipe = EnasRecurrentRecipe.parse(read_yaml(Path("profiles/recipes/enas-rnn-ptb.yaml")), "ptb")
    assert recipe.search.nodes == 12
    assert EnasTextRecipe() == EnasTextRecipe(**vars(recipe.search) | {"derive_samples": 100})
