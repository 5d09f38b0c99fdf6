"""REINFORCE: its gradient is that of the expected reward, and it finds what random search needs longer for."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ofa_kit.errors import RecipeError
from ofa_kit.nas.reinforce.controller import Controller, TokenController, squashed
from ofa_kit.nas.reinforce.decisions import Decisions, kl_to_target
from ofa_kit.nas.reinforce.policy import Policy, PolicyRecipe
from ofa_kit.nas.reinforce.reward import LatencyTerm


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Anchored(Controller):
    """A choice, then yes/no answers whose logits depend on it."""

    def __init__(self, choices, answers, generator):
        super().__init__()
        self.choice = torch.nn.Parameter(torch.randn(choices, generator=generator))
        self.answers = torch.nn.Parameter(torch.randn(choices, answers, generator=generator))

    def walk(self, decisions):
        chosen = decisions.choose(self.choice.expand(decisions.count, -1))
        logits = self.answers[chosen]
        decisions.flip(logits)
        decisions.penalty = decisions.penalty + kl_to_target(logits, 0.4)


def every_token(controller, sizes):
    return torch.tensor(list(itertools.product(*(range(size) for size in sizes))))


CONTROLLERS = [
    (TokenController((3, 4, 2, 5), seeded(1), hidden=6, layers=2, bound=0.8), (3, 4, 2, 5)),
    (Anchored(5, 4, seeded(2)), (5, 2, 2, 2, 2)),
]


@pytest.mark.parametrize(("controller", "sizes"), CONTROLLERS)
def test_probabilities_of_all_architectures_add_up_to_1_and_entropy_is_theirs(controller, sizes):
    with torch.no_grad():
        found = controller.score(every_token(controller, sizes))
        assert float(found.log_prob.exp().sum()) == pytest.approx(1, abs=1e-5)
        exact = -float((found.log_prob.exp() * found.log_prob).sum())
        assert float((found.log_prob.exp() * found.entropy).sum()) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("controller", "sizes"), CONTROLLERS)
def test_what_was_drawn_has_the_same_probability_when_replayed(controller, sizes):
    drawn = controller.sample(50, seeded(3))
    replayed = controller.score(drawn.tokens)
    assert torch.equal(drawn.tokens, replayed.tokens)
    assert torch.allclose(drawn.log_prob, replayed.log_prob, atol=1e-6)
    assert torch.equal(drawn.tokens, controller.sample(50, seeded(3)).tokens)
    assert (drawn.tokens < torch.tensor(sizes)).all()


@pytest.mark.parametrize("warm", [False, True], ids=["first round", "with a baseline"])
@pytest.mark.parametrize(("controller", "sizes"), CONTROLLERS)
def test_the_gradient_is_that_of_the_expected_reward_and_entropy(controller, sizes, warm):
    tokens, weight = every_token(controller, sizes), 0.3
    rewards = torch.rand(len(tokens), generator=seeded(4)) + 2.0 * (tokens[:, 0] == 2)
    reward_of = {tuple(row): float(reward) for row, reward in zip(tokens.tolist(), rewards, strict=True)}
    policy = Policy(controller, PolicyRecipe(entropy_weight=weight))
    found = controller.score(tokens)
    probs = found.log_prob.exp()
    controller.zero_grad()
    (-(probs * (rewards - weight * found.log_prob)).sum()).backward()
    exact = flat_gradient(controller)

    generator, rounds = seeded(5), []
    for _ in range(100):
        drawn = controller.sample(200, generator).tokens
        policy.baseline = 0.7 if warm else None
        controller.zero_grad()
        policy.add_gradients(drawn, [reward_of[tuple(row)] for row in drawn.tolist()])
        rounds.append(flat_gradient(controller))
    stacked = torch.stack(rounds)
    directions = torch.cat([exact[:, None], torch.randn(stacked.shape[1], 7, generator=seeded(6))], 1)
    estimates, wanted = stacked @ directions, exact @ directions
    standard_error = estimates.std(0) / math.sqrt(len(rounds))
    assert ((estimates.mean(0) - wanted).abs() <= 3 * standard_error).all()
    assert wanted[0] > 10 * standard_error[0]  # so a wrong gradient would be seen


def flat_gradient(controller):
    return torch.cat([p.grad.flatten() for p in controller.parameters()]).clone()


def test_the_best_of_10000_is_found_with_fewer_samples_than_random_search_needs():
    wins = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        gains = rng.random((4, 10)) / 4  # the reward of an architecture is the sum of its four tokens' gains
        best = gains.argmax(1)
        order = rng.permutation(10_000)  # random search that never asks twice
        random_needs = 1 + int(np.flatnonzero(order == int("".join(map(str, best))))[0])
        wins += controller_needs(gains, best, seed, at_most=random_needs) < random_needs
    assert wins >= 9  # without the entropy bonus it settles on another architecture too early


def controller_needs(gains, best, seed, at_most):
    """Return how many architectures are sampled until the best one is, repeats included."""
    generator = seeded(seed)
    controller = TokenController((10, 10, 10, 10), generator)
    policy = Policy(controller, PolicyRecipe(lr=0.02, baseline_decay=0.8, entropy_weight=0.02))
    asked = 0
    while asked < at_most:
        tokens = policy.sample(10, generator).tokens
        same = (tokens.numpy() == best).all(1)
        if same.any():
            return asked + 1 + int(same.argmax())
        asked += len(tokens)
        policy.update(tokens, gains[np.arange(4), tokens.numpy()].sum(1).tolist())
    return at_most


def test_an_entropy_bonus_keeps_choices_open_and_the_penalty_moves_skips_to_their_target():
    def trained(**recipe):
        generator = seeded(7)
        policy = Policy(Anchored(5, 4, generator), PolicyRecipe(lr=0.02, **recipe))
        for _ in range(200):
            tokens = policy.sample(16, generator).tokens
            policy.update(tokens, (tokens[:, 0] == 2).float().tolist())
        return policy.controller

    def entropy(controller):
        return float(torch.distributions.Categorical(logits=controller.choice).entropy().detach())

    def skip_rates(controller):
        return controller.answers[controller.choice.argmax()].sigmoid().detach()

    greedy = trained()
    assert int(greedy.choice.argmax()) == 2
    assert entropy(trained(entropy_weight=0.5)) > 2 * entropy(greedy)
    assert torch.allclose(skip_rates(trained(penalty_weight=0.8)), torch.tensor(0.4), atol=0.03)
    assert not torch.allclose(skip_rates(greedy), torch.tensor(0.4), atol=0.1)


def test_the_baseline_follows_rewards_by_its_decay():
    policy = Policy(Anchored(5, 4, seeded(8)), PolicyRecipe(baseline_decay=0.9))
    tokens = policy.sample(2, seeded(9)).tokens
    assert policy.update(tokens, [0.0, 1.0]).baseline == pytest.approx(0.5)
    assert policy.baseline == pytest.approx(0.5)
    found = policy.update(tokens, [1.0, 1.0])
    assert (found.reward, found.baseline) == pytest.approx((1.0, 0.5))
    assert policy.baseline == pytest.approx(0.9 * 0.5 + 0.1)


def test_a_policy_goes_on_where_it_stood():
    def learn(policy, rounds):
        for number in rounds:
            tokens = policy.sample(8, seeded(number)).tokens
            policy.update(tokens, tokens.float().mean(1).tolist())
        return policy

    recipe = PolicyRecipe(lr=0.01, entropy_weight=0.1, max_norm=1.0)
    whole = learn(Policy(Anchored(5, 4, seeded(10)), recipe), range(6))
    half = learn(Policy(Anchored(5, 4, seeded(10)), recipe), range(3))
    again = Policy(Anchored(5, 4, seeded(11)), recipe)
    again.restore(*half.state())
    learn(again, range(3, 6))
    for a, b in zip(whole.controller.parameters(), again.controller.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.baseline == whole.baseline


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_latency_factor_is_1_at_the_target_and_falls_with_latency(target_ms, latency_ms):
    soft, hard = LatencyTerm.of(target_ms), LatencyTerm.of(target_ms, hard=True)
    assert soft.factor(target_ms) == hard.factor(target_ms) == 1
    assert (soft.factor(latency_ms) > 1) == (latency_ms < target_ms) or latency_ms == pytest.approx(target_ms)
    assert soft.factor(2 * latency_ms) == pytest.approx(0.953 * soft.factor(latency_ms), rel=1e-3)
    assert hard.factor(latency_ms) == (latency_ms <= target_ms)


def test_a_latency_term_that_makes_no_sense_is_refused():
    assert LatencyTerm.of(None) is None
    with pytest.raises(RecipeError, match="latency_target_ms is 0"):
        LatencyTerm.of(0)
    with pytest.raises(RecipeError, match="rewards slow networks"):
        LatencyTerm.of(1.0, 0.07)


def test_squashed_logits_stay_within_their_bound_and_the_divergence_is_that_of_coins():
    logits = torch.linspace(-50, 50, 11)
    assert squashed(logits, temperature=5.0, tanh_constant=1.1).abs().max() <= 1.1
    assert squashed(torch.tensor([0.5]), temperature=5.0, tanh_constant=1.1).item() == pytest.approx(0.11, rel=0.01)
    coin = torch.distributions.Bernoulli(logits=torch.tensor([0.3, -2.0]))
    target = torch.distributions.Bernoulli(torch.tensor(0.4))
    exact = torch.distributions.kl_divergence(coin, target).sum()
    assert torch.allclose(kl_to_target(torch.tensor([[0.3, -2.0]]), 0.4), exact)


def test_a_choice_that_is_ruled_out_is_never_taken_and_has_a_gradient():
    logits = torch.tensor([[0.0, -1e9, 1.0]]).expand(200, -1).clone().requires_grad_()
    decisions = Decisions.drawn(200, seeded(12))
    assert not (decisions.choose(logits) == 1).any()
    (decisions.log_prob.sum() + decisions.entropy.sum()).backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.allclose(decisions.entropy, torch.distributions.Categorical(F.softmax(logits, 1)).entropy(), atol=1e-5)
