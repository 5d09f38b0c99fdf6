"""ENAS's macro search: shared weights, skip connections near their target, latency, what it writes."""

import itertools

import numpy as np
import pytest
import torch

from ofa_kit.commands.search_enas import search_enas
from ofa_kit.config import read_yaml, shipped_profiles
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import RecipeError, RunError, UnknownNameError
from ofa_kit.nas.cells.counts import macs_of
from ofa_kit.nas.enas.derive import COLUMNS as DERIVED
from ofa_kit.nas.enas.macro_arc import (
    OPERATIONS,
    MacroArc,
    MacroLayer,
    read_macro_arc,
)
from ofa_kit.nas.enas.macro_child import MacroChild
from ofa_kit.nas.enas.macro_controller import MacroController
from ofa_kit.nas.enas.macro_latency import MacroLatency, tensors
from ofa_kit.nas.enas.macro_network import MacroNetwork
from ofa_kit.nas.enas.macro_picture import save_macro_picture
from ofa_kit.nas.enas.macro_plan import MacroShape
from ofa_kit.nas.enas.macro_recipe import MacroRecipe
from ofa_kit.nas.enas.macro_search import MacroSearch
from ofa_kit.nas.enas.search import COLUMNS
from ofa_kit.nas.reinforce.policy import Policy, PolicyRecipe
from ofa_kit.storage import read_rows
from ofa_kit.training.epochs import work_through
from tests.nas.macro_arcs import all_operations, expected_params, flat

QUICK = """
name: quick
backend: onnxruntime
protocol: {sessions: 1, rounds_per_block: 4, min_burst_s: 0.001, pause_s: 0.0, warmup_runs: 2, warmup_s: 0.0}
"""
TINY = {
    "kind": "macro",
    "images": 300,
    "held_out": 0.3,
    "layers": 3,
    "channels": 4,
    "epochs": 2,
    "batch_size": 64,
    "controller_updates": 2,
    "controller_samples": 3,
    "derive_samples": 4,
    "network_channels": 6,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_child_computes_the_arc_that_comes_with_the_call(operation):
    """One operation alone, by hand, from the shared weights; others get no gradient."""
    torch.manual_seed(0)
    child = MacroChild(MacroShape(layers=3, channels=4, image_size=8, widens=False))
    arc = MacroArc((MacroLayer(operation), MacroLayer("conv_3x3", (0,)), MacroLayer(operation, (0, 1))))
    images = torch.randn((2, 3, 8, 8), generator=seeded(1))
    first, second = child.reductions["0"], child.reductions["1"]
    stem = child.stem(images)
    one = child.layers[0].operations[operation](stem)
    stem, one = first[0](stem), first[1](one)
    two = child.layers[1].norm(child.layers[1].operations["conv_3x3"](one) + stem)
    stem, one, two = second[0](stem), second[1](one), second[2](two)
    three = child.layers[2].norm(child.layers[2].operations[operation](two) + stem + one)
    found = child(images, arc)
    assert torch.allclose(found, child.classifier(three.mean((2, 3))), atol=1e-5)
    found.sum().backward()
    for layer, name in itertools.product(range(3), OPERATIONS):
        touched = name == arc.layers[layer].operation
        for parameter in child.layers[layer].operations[name].parameters():
            assert (parameter.grad is not None) == touched


def test_operations_and_connections_matter():
    """The authors' closure makes every operation the last one."""
    torch.manual_seed(0)
    child = MacroChild(MacroShape(layers=3, channels=4, image_size=8, widens=False))
    images = torch.randn((2, 3, 8, 8), generator=seeded(1))
    base = [MacroLayer("conv_3x3"), MacroLayer("conv_3x3"), MacroLayer("conv_3x3")]
    outputs = [child(images, MacroArc((*base[:1], MacroLayer(name), *base[2:]))) for name in OPERATIONS]
    outputs.append(child(images, MacroArc((*base[:1], MacroLayer("conv_3x3", (0,)), *base[2:]))))
    for one, other in itertools.combinations(outputs, 2):
        assert (one - other).abs().max() > 1e-3


def test_the_controllers_tokens_are_the_rows():
    controller = MacroController(6, seeded(), hidden=8, bound=2.0)
    decisions = controller.sample(20, seeded(1))
    assert decisions.tokens.shape == (20, 21)
    for row, arc in zip(decisions.tokens.tolist(), controller.arcs(decisions.tokens), strict=True):
        assert flat(arc) == row
    again = controller.score(decisions.tokens)
    assert torch.allclose(again.log_prob, decisions.log_prob, atol=1e-5)
    assert torch.allclose(again.penalty, decisions.penalty, atol=1e-6)


@pytest.mark.parametrize("target", [0.15, 0.4, 0.8])
def test_the_penalty_moves_the_skip_rate_to_its_target(target):
    """Rewards are all the same: the penalty alone moves the controller."""
    controller = MacroController(5, seeded(), hidden=16, skip_target=target)
    policy = Policy(controller, PolicyRecipe(lr=0.03, beta1=0.0, eps=1e-3, penalty_weight=0.8))

    def rate():
        return float(np.mean([arc.skip_rate for arc in controller.arcs(controller.sample(200, seeded(9)).tokens)]))

    start = rate()
    penalties = [policy.update(policy.sample(8, seeded(n)).tokens, [1.0] * 8).penalty for n in range(60)]
    assert abs(start - 0.5) < 0.05
    assert abs(rate() - target) < 0.05
    assert penalties[-1] < 0.1 * penalties[0]


def test_a_picture_names_every_layer(tmp_path):
    svg, png = save_macro_picture(all_operations(), tmp_path)
    text = svg.read_text()
    for name in OPERATIONS:
        assert name.replace("_", " ") in text
    assert text.count("halve") == 2
    assert png.read_bytes()[:4] == b"\x89PNG"


class KilledError(Exception):
    pass


def test_a_search_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    recipe, dataset = MacroRecipe.parse(TINY, "test"), open_dataset("digits", photo_size=32)

    def run(name, kill_at=None):
        search, done = MacroSearch(recipe, dataset, tmp_path / name, torch.device("cpu")), []

        def watch(seen):
            done.append(seen)
            if len(done) == kill_at:
                raise KilledError

        work_through(search, tmp_path / name / "last", checkpoint_s=0 if kill_at else 60, watch=watch)
        return search

    whole = run("whole")
    for kill_at in (2, 3):
        with pytest.raises(KilledError):
            run("killed", kill_at)
        torch.manual_seed(kill_at)
    resumed = run("killed")
    first, second = whole.state(), resumed.state()
    assert first[1] == second[1]
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    rows = [read_rows(tmp_path / name / "search.csv", COLUMNS) for name in ("whole", "killed")]
    for row in rows[0] + rows[1]:
        del row["elapsed_s"]
    assert rows[0] == rows[1]
    assert float(rows[0][0]["penalty"]) > 0


def test_latency_adds_up_what_the_parts_of_an_arc_take():
    """Parts take as long as their multiply-adds are many: then the sum is the network's, stem and classifier apart."""
    shape = MacroShape(layers=6, channels=4, image_size=16)
    reads = tensors(shape)
    assert [(read.channels, read.size) for read in reads] == [(4, 16), (4, 16), (8, 8), (8, 8), (16, 4), (16, 4)]

    def macs(read, weights):
        return float(weights * read.size**2)

    kinds = {"conv": lambda k, c: k * c * c, "sep_conv": lambda k, c: k * c + c * c}
    operations = {}
    for read, name in itertools.product(reads, OPERATIONS):
        kind, k, c = name[:-4], int(name[-1]) ** 2, read.channels
        operations[read, name] = macs(read, c * c + kinds.get(kind, lambda k, c: 0)(k, c))
    joins = {read: (macs(read, read.channels**2),) * 2 for read in reads}
    halving = {reads[n]: macs(reads[n], 2 * reads[n].channels ** 2) / 4 for n in shape.reductions}
    latency = MacroLatency(reads, shape.reductions, operations, joins, halving, scale=2.0, fixed_ms=5.0)
    for seed in range(3):
        (arc,) = MacroController(6, seeded()).arcs(MacroController(6, seeded()).sample(1, seeded(seed)).tokens)
        ends = 27 * 4 * 256 + 16 * 10
        expected = macs_of(MacroNetwork(arc, shape), shape.image) - ends
        assert latency.of_arc(arc) == pytest.approx(5.0 + 2.0 * expected)


def test_the_command_searches_derives_and_draws(tmp_path):
    folder = tmp_path / "run"
    (tmp_path / "quick.yaml").write_text(QUICK)
    values = {**TINY, "device": str(tmp_path / "quick.yaml"), "latency_target_ms": 0.05}
    found = search_enas(values, folder)
    assert read_macro_arc((folder / "arc.txt").read_text()) == found.arc
    derived = read_rows(folder / "derived.csv", DERIVED)
    best = max(derived, key=lambda row: float(row["reward"]))
    assert read_macro_arc(best["genotype"]) == found.arc
    factor = (float(best["latency_ms_predicted"]) / 0.05) ** -0.07
    assert float(best["reward"]) == pytest.approx(float(best["top1"]) / 100 * factor, rel=0.01)
    assert found.latency.latency_ms > 0
    assert found.params == expected_params(found.arc, 6) - 2 * 9 * 6  # digits have one channel
    assert (folder / "network.png").read_bytes()[:4] == b"\x89PNG"
    assert any(f"{found.params:,} parameters" in line for line in found.lines())
    assert search_enas({}, folder, resume=True) == found
    with pytest.raises(RunError, match="exists; go on with --resume"):
        search_enas(TINY, folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 1}, "layers must be at least 2"),
        ({"skip_target": 1.0}, "skip_target must be between 0 and 1"),
        ({"skip_weight": -1}, "skip_weight must be at least 0"),
        ({"nodes": 3}, "unknown key"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values, message):
    with pytest.raises((RecipeError, UnknownNameError), match=message):
        MacroRecipe.parse(values, "test.yaml")


def test_the_recipe_of_cifar10_is_the_published_one():
    recipe = MacroRecipe.parse(read_yaml(shipped_profiles() / "recipes" / "enas-macro-cifar10.yaml"), "cifar10")
    assert recipe == MacroRecipe(data="cifar10")
    assert recipe.policy.penalty_weight == 0.8
