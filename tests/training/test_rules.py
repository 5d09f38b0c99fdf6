"""Which subnets a step trains, and what they lose."""

import itertools

import numpy as np
import pytest
import torch

from ofa_kit.arch.layers import macs
from ofa_kit.arch.presets import PRESETS, preset
from ofa_kit.errors import RecipeError
from ofa_kit.training.losses import IMPORTANCE_CLIP, alpha_divergence
from ofa_kit.training.phases import phases_of
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.rules import Sandwich, Shrinking, SinglePath, StrictlyFair, similar_macs


def no_loss(arch):
    raise AssertionError("this rule asks for no loss")


def test_rules_train_what_their_papers_say(rng):
    space = preset("mbv3-small-images")
    passes = Sandwich(space, 2).passes(rng, no_loss)
    assert [p.target for p in passes] == ["labels", "largest", "largest", "largest"]
    assert [p.regularized for p in passes] == [True, False, False, False]
    assert [p.arch for p in passes[:2]] == [space.largest(), space.smallest()]
    assert [p.target for p in SinglePath(space).passes(rng, no_loss)] == ["labels"]
    assert len({p.arch.resolution for p in Shrinking(space, 4, "teacher").passes(rng, no_loss)}) == 1


def test_strict_fairness_uses_every_choice_of_every_block_equally_often(rng):
    space = preset("mbv3-small-images").restricted(depths=1)  # no block is ever skipped
    genomes = np.stack([space.encode(p.arch) for p in StrictlyFair(space).passes(rng, no_loss)])
    for column, choices in zip(genomes.T, space.choice_counts, strict=True):
        counts = np.bincount(column, minlength=choices)
        assert counts.max() - counts.min() <= (len(genomes) % choices > 0)


def test_best_up_and_worst_up_take_the_best_and_the_worst_of_the_same_candidates():
    space = preset("mbv3-small-images")
    chosen = {}
    for preference in ("best-up", "worst-up"):
        asked = []

        def loss_of(arch, asked=asked):
            asked.append(arch)
            return -macs(space, arch) / 1e6

        arch = Sandwich(space, 1, preference, 5).passes(np.random.default_rng(3), loss_of)[2].arch
        losses = [loss_of(a) for a in list(asked)]
        chosen[preference] = (arch, losses)
        pick = min if preference == "best-up" else max
        assert -macs(space, arch) / 1e6 == pick(losses[:5])
    assert chosen["best-up"][1] == chosen["worst-up"][1]
    assert chosen["best-up"][0] != chosen["worst-up"][0]


@pytest.mark.parametrize("space", PRESETS.values(), ids=list(PRESETS))
def test_candidates_of_a_step_have_similar_macs(space, rng):
    spread = macs(space, space.largest()) / macs(space, space.smallest())
    for _ in range(5):
        costs = [macs(space, arch) for arch in similar_macs(space, 3, rng)]
        assert max(costs) / min(costs) < spread**0.5


def test_alpha_divergence_has_the_gradient_of_the_larger_divergence():
    generator = torch.Generator().manual_seed(0)
    teacher = 2 * torch.randn(64, 5, generator=generator, dtype=torch.float64)
    student = (0.7 * torch.randn(64, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    alpha_divergence(student, teacher).backward()
    p, q = teacher.softmax(1), student.softmax(1)
    positive = (p * (p / q).log()).sum(1)
    inverse = (q / p).clamp(max=IMPORTANCE_CLIP)
    negative = (q * (inverse - 1)).sum(1) / 2
    larger = (negative > positive).detach()
    assert larger.any()
    assert not larger.all()
    found = student.grad.clone()
    unclipped = ((q / p) < IMPORTANCE_CLIP).all(1) | ~larger
    for index in torch.nonzero(unclipped).flatten().tolist():
        student.grad = None
        loss = ((q[index] ** 2 / p[index]).sum() - 1) / 2 if larger[index] else positive[index]
        (loss / 64).backward(retain_graph=True)
        torch.testing.assert_close(found[index], student.grad[index], rtol=1e-6, atol=1e-9)


def test_alpha_divergence_of_equal_outputs_has_no_gradient():
    logits = torch.randn(8, 4, requires_grad=True)
    alpha_divergence(logits, logits.detach()).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-7)


def test_ofa_phases_open_kernel_then_depth_then_width():
    recipe = Recipe(space="mbv3-small-images", method="progressive-shrinking", epochs=20)
    space = preset(recipe.space)
    sizes = [phase.rule.space.size() for phase in phases_of(recipe, space)]
    assert sizes == sorted(sizes)
    assert sizes[0] == len(space.resolutions)
    assert sizes[-1] == space.size()
    assert [p.sort_before is not None for p in phases_of(recipe, space)] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("name", list(PRESETS))
def test_progressive_shrinking_opens_every_family_and_no_phase_opens_nothing(name):
    recipe, space = Recipe(space=name, method="progressive-shrinking", epochs=20), preset(name)
    phases = phases_of(recipe, space)
    sizes = [phase.rule.space.size() for phase in phases]
    assert sizes[-1] == space.size()
    assert all(before < after for before, after in itertools.pairwise(sizes))
    assert sum(phase.epochs for phase in phases) == 20
    assert all(phase.rule.space.contains(space.largest()) for phase in phases)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "single-path", "distillation": "alpha-divergence"}, "belongs to the method sandwich"),
        ({"method": "single-path", "num_random": 3}, "num_random belongs to the method sandwich"),
        ({"label_share": 1.5}, "label_share must be in 0..1"),
        ({"strict_fairness": True}, "belongs to the method single-path"),
        ({"batch_size": 10, "accumulate": 4}, "no multiple of accumulate"),
        ({"drop_connect": 1.0}, "drop_connect must be in"),
        ({"clip_grad_value": -1.0}, "clip_grad_value must be at least 0"),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm must be at least 0"),
    ],
)
def test_settings_that_would_be_ignored_or_cannot_be_are_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.parse({"space": "mbv3-tiny", **values}, "test")
