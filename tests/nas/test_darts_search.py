"""The search as a command: what it writes, that a kill changes nothing, and the remedies for collapse."""

import csv
import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from ofa_kit.commands.search_darts import search_darts
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import RecipeError, RunError
from ofa_kit.nas.cells.counts import macs_of
from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS, all_edges
from ofa_kit.nas.cells.measured import network_name
from ofa_kit.nas.cells.network import CellNetwork
from ofa_kit.nas.cells.presets import find_genotype
from ofa_kit.nas.cells.sampling import uniform_genotype
from ofa_kit.nas.darts.alphas import Alphas
from ofa_kit.nas.darts.perturbation import select
from ofa_kit.nas.darts.recipe import DartsRecipe
from ofa_kit.nas.darts.search import Halves, Search

TINY = {"data": "digits", "images": 80, "cells": 2, "channels": 4, "nodes": 2, "epochs": 2, "batch_size": 8}
TINY |= {"network_cells": 2, "network_channels": 4, "alpha_lr": 0.1, "order": "first"}
QUICK = "name: quick\nbackend: onnxruntime\nprotocol: {sessions: 1, rounds_per_block: 3, pause_s: 0.0, warmup_s: 0.0}\n"


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_search_finds_draws_and_logs(tmp_path):
    found = search_darts(TINY, tmp_path / "run")
    folder = tmp_path / "run"
    assert find_genotype(str(folder / "genotype.txt")) == found.genotype
    assert found.latency is None
    log = rows_of(folder / "search.csv")
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert find_genotype(log[-1]["genotype"]) == found.genotype
    shares = rows_of(folder / "shares.csv")
    assert len(shares) == 2 * 2 * len(all_edges(2))
    assert sum(float(shares[0][name]) for name in DARTS_OPERATIONS) == pytest.approx(1, abs=1e-3)
    for name in ("normal", "reduce"):
        assert (folder / f"{name}.svg").read_text().lstrip().startswith("<?xml")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "sep_conv" in (folder / "normal.svg").read_text() or "sep_conv" not in str(found.genotype.normal)
    assert search_darts({}, folder, resume=True) == found
    with pytest.raises(RunError, match="exists; go on with --resume"):
        search_darts(TINY, folder)


@pytest.mark.parametrize("order", ["first", "second", "exact"])
def test_killed_in_an_epoch_and_resumed_is_as_if_it_had_not_been(tmp_path, monkeypatch, order):
    values = {**TINY, "nodes": 1, "images": 40, "order": order, "checkpoint_s": 0.0, "max_skips": 8}
    whole = search_darts(values, tmp_path / "whole")
    move = Search.step

    def killed_in_the_second_epoch(self, batch, epoch, step):
        if (epoch, step) == (1, 1):
            raise KilledError
        return move(self, batch, epoch, step)

    monkeypatch.setattr(Search, "step", killed_in_the_second_epoch)
    with pytest.raises(KilledError):
        search_darts(values, tmp_path / "cut")
    monkeypatch.setattr(Search, "step", move)
    resumed = search_darts({}, tmp_path / "cut", resume=True)
    assert dataclasses.replace(resumed, folder=whole.folder) == whole
    ends = [load_file(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("whole", "cut")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    logs = [rows_of(tmp_path / name / "search.csv") for name in ("whole", "cut")]
    timeless = [[{k: v for k, v in row.items() if k != "elapsed_s"} for row in log] for log in logs]
    assert timeless[0] == timeless[1]


def test_what_was_begun_otherwise_is_not_resumed(tmp_path):
    search_darts(TINY, tmp_path / "run")
    with pytest.raises(RunError, match="begun with seed=0"):
        search_darts({"seed": 1}, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="other images"):
        search_darts({"data": f"imagefolder:{other_images(tmp_path)}"}, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="nothing to resume"):
        search_darts({}, tmp_path / "none", resume=True)


def other_images(folder):
    from PIL import Image

    for name in ("a", "b"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(folder / "images" / name / f"{number}.png")
    return folder / "images"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latency_weight": 0.1}, "needs a device"),
        ({"latency_target_ms": 1.0}, "needs latency_weight"),
        ({"epochs": 3, "warmup_epochs": 3}, "leave no epoch"),
        ({"order": "third"}, "order: Input should be 'first'"),
        ({"chanels": 4}, "did you mean 'channels'"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values, message):
    with pytest.raises(Exception, match=message) as caught:
        DartsRecipe.parse(values, "test")
    assert isinstance(caught.value, RecipeError) or "did you mean" in message


def test_halves_share_no_image_and_no_class_is_missing():
    dataset = open_dataset("digits", photo_size=8)
    halves = Halves.of(dataset, DartsRecipe(data="digits", images=200))
    first, second = ({int(i) for i in part_indices(half)} for half in (halves.weights, halves.alphas))
    assert not first & second
    assert abs(len(first) - len(second)) <= 10
    assert len(first | second) == pytest.approx(200, abs=10)
    assert halves.weights.labels.unique().tolist() == halves.alphas.labels.unique().tolist() == list(range(10))


def part_indices(part):
    """Return positions in the source of a part of a part of ... the images."""
    indices = part.indices
    while hasattr(part.source, "indices"):
        part = part.source
        indices = part.indices[indices]
    return indices


def test_the_search_stops_before_the_normal_cell_fills_with_skips(tmp_path):
    dataset = open_dataset("digits", photo_size=8)
    recipe = DartsRecipe.parse({**TINY, "max_skips": 1, "epochs": 9}, "test")
    search = Search(recipe, dataset, tmp_path, torch.device("cpu"))
    means = {"train_loss": 1.0, "elapsed_s": 1.0}
    skip, conv = DARTS_OPERATIONS.index("skip_connect"), DARTS_OPERATIONS.index("sep_conv_3x3")

    def lean(operation):
        with torch.no_grad():
            search.alphas.normal.zero_()[:, operation] = 5.0

    lean(skip)
    search.end_epoch(0, means)
    assert not search.ended_early, "nothing within the limit was found before"
    lean(conv)
    search.end_epoch(1, means)
    within = search.genotype
    lean(skip)
    search.end_epoch(2, means)
    assert search.ended_early
    assert search.genotype == within
    assert within.normal.skips == 0


def test_partial_channels_and_perturbation_give_cells(tmp_path):
    values = {**TINY, "nodes": 1, "images": 40, "partial_channels": 2, "warmup_epochs": 1, "selection": "perturbation"}
    values |= {"perturbation_images": 16, "tune_steps": 1}
    once, again = (search_darts(values, tmp_path / name) for name in ("once", "again"))
    assert once.genotype == again.genotype
    log = rows_of(tmp_path / "once" / "search.csv")
    assert log[0]["validation_loss"] == "", "the weights warm up alone"
    assert float(log[1]["validation_loss"]) > 0
    assert float(rows_of(tmp_path / "once" / "shares.csv")[0]["edge_share"]) == pytest.approx(0.5, abs=0.1)


def test_perturbation_keeps_what_the_loss_misses_and_shares_do_not_say():
    wanted = {(False, 0): 4, (False, 1): 5, (True, 0): 1, (True, 1): 3}

    def loss_of(mixture):
        return -sum(float(mixture.shares(reduction=kind)[row, index]) for (kind, row), index in wanted.items())

    alphas = Alphas.fresh(1, len(DARTS_OPERATIONS), torch.Generator().manual_seed(0))
    genotype = select(alphas.mixture(), DARTS_OPERATIONS, loss_of, torch.Generator().manual_seed(0))
    cells = [
        {(DARTS_OPERATIONS[index], row) for (kind, row), index in wanted.items() if kind == reduction}
        for reduction in (False, True)
    ]
    assert [set(genotype.normal.pairs), set(genotype.reduce.pairs)] == cells


def test_a_heavy_latency_term_finds_a_lighter_network_and_measures_it(tmp_path):
    (tmp_path / "quick.yaml").write_text(QUICK)
    values = {**TINY, "nodes": 1, "device": str(tmp_path / "quick.yaml"), "network_channels": 16, "alpha_lr": 0.5}
    heavy = search_darts({**values, "latency_weight": 100.0}, tmp_path / "heavy")
    log = rows_of(tmp_path / "heavy" / "search.csv")
    expected_ms = [float(row["latency_ms_expected"]) for row in log]
    assert expected_ms == sorted(expected_ms, reverse=True)
    assert expected_ms[-1] < expected_ms[0]
    heaviest = CellNetwork(uniform_genotype(1, "sep_conv_5x5"), heavy.shape)
    assert heavy.macs < macs_of(heaviest, (heavy.shape.in_channels, *2 * (heavy.shape.image_size,)))
    measured = {row["name"] for row in rows_of(tmp_path / "heavy" / "times-quick.csv")}
    assert network_name(heavy.shape, heavy.genotype) in measured
    assert heavy.latency.latency_ms > 0
    assert float(log[-1]["latency_ms_predicted"]) == pytest.approx(heavy.latency_ms_predicted, abs=1e-3)
