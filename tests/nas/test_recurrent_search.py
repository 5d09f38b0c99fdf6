"""The recurrent search: exact gradients of the alphas, resumable work, and models that export as they are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call

from ofa_kit.commands.search_recurrent_export import compare_language_model
from ofa_kit.data.text import open_text
from ofa_kit.data.text_batches import Columns, Segment, columns
from ofa_kit.errors import ExportError, OfaKitError
from ofa_kit.nas.recurrent.alphas import RecurrentAlphas
from ofa_kit.nas.recurrent.cell import GenotypeCell, LstmCell
from ofa_kit.nas.recurrent.dropout import DropoutRates
from ofa_kit.nas.recurrent.genotype import FUNCTIONS, PRESETS, RecurrentGenotype
from ofa_kit.nas.recurrent.language_model import LanguageModel, activation_penalty, cross_entropy, perplexity
from ofa_kit.nas.recurrent.onnx import language_model
from ofa_kit.nas.recurrent.picture import draw, node_places
from ofa_kit.nas.recurrent.recipe import SearchRecipe, TrainRecipe
from ofa_kit.nas.recurrent.retrain import TrainWork
from ofa_kit.nas.recurrent.search import DartsWork
from ofa_kit.nas.recurrent.search_cell import SearchCell
from ofa_kit.nas.recurrent.tree import PRESETS as TREES
from ofa_kit.nas.recurrent.tree import from_tokens, token_sizes
from ofa_kit.nas.recurrent.tree_cell import TreeCell
from ofa_kit.nas.recurrent.work import generator_of
from ofa_kit.storage import read_rows
from ofa_kit.training.epochs import work_through

SOME = DropoutRates(embedded=0.1, cell_input=0.2, cell_state=0.2, output=0.2)
SMALL = {"hidden": 8, "batch": 6, "bptt": 8, "lr": 2.0, "init_range": 0.3, "dropout": SOME}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def search_work(order="first", dtype=torch.float32, clip=0.25, folder=Path("unused"), **changes):
    recipe = SearchRecipe(**SMALL | {"nodes": 3, "order": order, "clip": clip} | changes)
    text = open_text("sonnets", most_words=30)
    cell = SearchCell(recipe.nodes, recipe.hidden, seeded(1), init_range=recipe.init_range)
    model = LanguageModel(cell, text.info.words, seeded(2), init_range=0.3).to(dtype)
    start = RecurrentAlphas.fresh(recipe.nodes, seeded(3))
    alphas = RecurrentAlphas((300 * start.scores.detach()).to(dtype).requires_grad_())
    train, validation = columns(text.train[:300], recipe.batch), columns(text.validation[:90], recipe.batch)
    return DartsWork(model, alphas, train, validation, recipe, folder / "metrics.csv", seed=5)


def train_work(folder=Path("unused"), kind="cell", **changes):
    text = open_text("sonnets", most_words=30)
    cell = LstmCell(8, seeded(1)) if kind == "lstm" else GenotypeCell(PRESETS["darts-v1"], 8, seeded(1), init_range=0.3)
    model = LanguageModel(cell, 30, seeded(2), init_range=0.3)
    parts = columns(text.train[:300], 6), columns(text.validation[:90], 2)
    return TrainWork(model, *parts, TrainRecipe(**SMALL | changes), folder / "metrics.csv", seed=5)


@pytest.mark.parametrize("clip", [0.05, 1e6])
@pytest.mark.parametrize(("order", "tolerance"), [("second", 0.05), ("exact", 1e-6)])
def test_alphas_follow_the_gradient_through_the_step_of_the_weights(order, tolerance, clip):
    """Autograd unrolls the clipped step by itself, on the masks and states of the search.

    The finite difference has ReLU's kinks inside its interval: it comes close, and closer than the first order.
    """
    work = search_work(order, torch.float64, clip, alpha_weight_decay=0.0, weight_decay=0.01, lr=0.5)
    segment = Segment(0, 0, 7)
    train, validation = segment.of(work.train), segment.of(work.validation)
    generator = seeded(9)
    train_masks, validation_masks = work.masks.draw(generator), work.masks.draw(generator)
    alphas = work.alphas.scores.detach().clone().requires_grad_()
    leaves = {name: p.detach().clone().requires_grad_() for name, p in work.model.named_parameters()}

    def loss(weights, scores, part, masks, penalty):
        passed = functional_call(work.model, weights, (part[0], work.model.cell.start(6), masks, scores.softmax(-1)))
        return cross_entropy(passed, part[1]) + activation_penalty(passed, size=0.0, change=penalty)

    first = torch.autograd.grad(
        loss(leaves, alphas, train, train_masks, 1e-3), list(leaves.values()), create_graph=True
    )
    norm = math.sqrt(sum(float(g.detach().square().sum()) for g in first))
    scale = min(1.0, clip / (norm + 1e-6))
    moved = {n: w - 0.5 * 7 / 8 * (scale * g + 0.01 * w) for (n, w), g in zip(leaves.items(), first, strict=True)}
    (expected,) = torch.autograd.grad(loss(moved, alphas, validation, validation_masks, 0.0), alphas)

    work.move_alphas(segment, seeded(9))
    found = work.alphas.scores.grad
    (first_order,) = torch.autograd.grad(
        loss(dict(work.model.named_parameters()), alphas, validation, validation_masks, 0.0), alphas
    )
    error = (found - expected).abs().max()
    assert error < tolerance * expected.abs().max()
    assert error < 0.3 * (first_order - expected).abs().max()


def test_the_first_order_gradient_is_that_of_fixed_weights():
    work = search_work("first", torch.float64)
    segment = Segment(0, 0, 7)
    generator = seeded(9)
    work.masks.draw(generator)
    masks = work.masks.draw(generator)
    scores = work.alphas.scores.detach().clone().requires_grad_()
    tokens, targets = segment.of(work.validation)
    passed = work.model(tokens, work.model.cell.start(6), masks, scores.softmax(-1))
    (expected,) = torch.autograd.grad(cross_entropy(passed, targets), scores)
    weights = {name: p.detach().clone() for name, p in work.model.named_parameters()}
    work.move_alphas(segment, seeded(9))
    assert torch.allclose(work.alphas.scores.grad, expected, atol=1e-12)
    assert all(torch.equal(p, weights[name]) for name, p in work.model.named_parameters())


def test_a_search_learns_and_its_alphas_move():
    work = search_work("first", alpha_lr=0.1, lr=5.0)
    before = perplexity(work.model, work.validation, work.alphas.mixture().detach())
    scores = work.alphas.scores.detach().clone()
    for number in range(12):
        work.begin_epoch()
        work.step(Segment(0, 0, 8), number, 0)
    assert perplexity(work.model, work.validation, work.alphas.mixture().detach()) < 0.8 * before
    assert (work.alphas.scores - scores).abs().max() > 0.2


class KilledError(Exception):
    pass


def killing_after(calls):
    """Return a watcher that kills the work, like a machine that goes down."""
    left = iter(range(calls, -1, -1))

    def watch(seen):
        if next(left) == 0:
            raise KilledError

    return watch


@pytest.mark.parametrize("kind", ["search", "train"])
def test_work_that_was_killed_ends_as_if_it_had_not_been(kind, tmp_path):
    def fresh(name):
        if kind == "search":
            return search_work("second", folder=tmp_path / name, nodes=2, epochs=2, deviation=2.0)
        return train_work(tmp_path / name, patience=1, lr=40.0, clip=3.0, epochs=6, deviation=2.0)

    whole = fresh("whole")
    work_through(whole, tmp_path / "whole" / "last", checkpoint_s=60)
    for kill_at in (5, 9):
        with pytest.raises(KilledError):
            work_through(fresh("killed"), tmp_path / "killed" / "last", checkpoint_s=0, watch=killing_after(kill_at))
        torch.manual_seed(kill_at)  # hidden state must not matter
    resumed = fresh("killed")
    work_through(resumed, tmp_path / "killed" / "last", checkpoint_s=60)
    first, second = whole.state(), resumed.state()
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    rows = [read_rows(work.log, work.logs[work.log]) for work in (whole, resumed)]
    for row in rows[0] + rows[1]:
        del row["elapsed_s"]
    assert rows[0] == rows[1]
    if kind == "train":
        assert whole.averaged > 0  # the average was under way
        assert min(whole.history) == pytest.approx(perplexity(whole.best, whole.validation))


def test_the_average_is_the_mean_of_the_weights_since_it_began():
    work = train_work(kind="lstm")
    work.average = {name: tensor.clone() for name, tensor in work.model.state_dict().items()}
    seen = []
    for number in range(3):
        work.step(Segment(number, 5 * number, 5), 0, number)
        seen.append(work.model.embedding.detach().clone())
    assert torch.allclose(work.average["embedding"], torch.stack(seen).mean(0), atol=1e-6)


def test_an_epoch_starts_with_an_empty_state_and_a_resumed_one_does_not():
    work = train_work()
    work.step(next(work.batches(0, 0)), 0, 0)
    assert work.carried[0].abs().sum() > 0
    carried = work.carried
    work.batches(0, 1)
    assert work.carried is carried
    work.batches(1, 0)
    assert work.carried[0].abs().sum() == 0


def any_genotype(rng):
    nodes = tuple((str(rng.choice(FUNCTIONS)), int(rng.integers(n + 1))) for n in range(5))
    return RecurrentGenotype(nodes, (2, 5), str(rng.choice(FUNCTIONS)))


def any_tree(rng):
    return from_tokens([int(rng.integers(size)) for size in token_sizes(int(rng.integers(1, 6)))])


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("kind", ["darts-v2", "enas", "random", "lstm", "nas-cell", "random tree"])
def test_onnx_computes_what_pytorch_computes(kind, length, rng, tmp_path):
    cell = LstmCell(9, seeded(), init_range=0.6)
    if kind in TREES or kind == "random tree":
        cell = TreeCell(TREES.get(kind) or any_tree(rng), 9, seeded(), init_range=0.6)
    elif kind != "lstm":
        genotype = any_genotype(rng) if kind == "random" else PRESETS[kind]
        cell = GenotypeCell(genotype, 9, seeded(), init_range=0.6)
    model = LanguageModel(cell, 20, seeded(1), init_range=0.6).requires_grad_(False)
    tokens = torch.randint(0, 20, (42,), generator=seeded(2))
    made = language_model(model, length=length)
    found = compare_language_model(model, made, tokens, tmp_path / "x.onnx", length=length)
    assert found.tokens == 41 // length * length
    assert found.max_relative_difference < 1e-5
    assert found.perplexity_onnx == pytest.approx(found.perplexity_pytorch, rel=1e-5)
    model.bias[3] += 0.1
    with pytest.raises(ExportError, match="differs from PyTorch"):
        compare_language_model(model, made, tokens, tmp_path / "x.onnx", length=length)


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_picture_shows_each_node_after_the_one_it_reads(name, tmp_path):
    genotype = PRESETS[name]
    places = node_places(genotype)
    assert len(set(places)) == len(genotype.nodes) + 1
    assert all(places[n][0] == places[source][0] + 1 for n, (_, source) in enumerate(genotype.nodes, start=1))
    draw(genotype, tmp_path / "cell.svg")
    drawn = (tmp_path / "cell.svg").read_text()
    assert drawn.startswith("<?xml")
    with pytest.raises(OfaKitError, match=r"ends in .png, .svg, .pdf"):
        draw(genotype, tmp_path / "cell.jpg")


def test_generators_depend_on_all_their_numbers():
    draws = {tuple(torch.rand(2, generator=generator_of(*numbers)).tolist()) for numbers in np.ndindex(3, 3)}
    assert len(draws) == 9


def test_the_validation_text_starts_again_where_it_ends():
    work = search_work()
    work.validation = Columns(torch.arange(10)[:, None], torch.arange(1, 11)[:, None])
    inputs, _ = work.validation_rows(Segment(0, 12, 4))
    assert inputs.flatten().tolist() == [2, 3, 4, 5]
    inputs, _ = work.validation_rows(Segment(0, 18, 4))
    assert inputs.flatten().tolist() == [8, 9]
