"""The controller: every token sequence is a network, probabilities add up, anchors are the paper's, and it learns."""

import itertools

import pytest
import torch

from ofa_kit.nas.nas_rl.controller import ConvController
from ofa_kit.nas.nas_rl.conv_net import ConvLayer
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.nas.nas_rl.space import ConvSpace
from ofa_kit.nas.reinforce.decisions import Decisions
from ofa_kit.nas.reinforce.policy import Policy, PolicyRecipe

SMALL = ConvSpace(filter_heights=(1, 3), filter_widths=(5,), filters=(2, 4, 6))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def every_sequence(space, depth):
    ranges = []
    for layer in range(depth):
        ranges += [range(len(choices)) for choices in space.open_kinds] + [range(2)] * (layer if space.skips else 0)
    return torch.tensor(list(itertools.product(*ranges)))


@pytest.mark.parametrize("skips", [True, False])
def test_every_sequence_is_another_network_and_probabilities_add_up_to_1(skips):
    space = ConvSpace(filter_heights=(1, 3), filter_widths=(5,), filters=(2, 4, 6), skips=skips)
    tokens = every_sequence(space, 3)
    nets = {space.read(row) for row in tokens.tolist()}
    assert len(nets) == len(tokens) == space.size(3)
    assert all(len(net.layers) == 3 and net.layers[0].filter_width == 5 for net in nets)
    controller = ConvController(space, 3, seeded(), hidden=6, bound=0.9)
    with torch.no_grad():
        assert float(controller.score(tokens).log_prob.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_tokens_are_read_in_the_order_of_the_paper():
    space = ConvSpace(stride_heights=(1, 2, 3), stride_widths=(1, 2))
    net = space.read([1, 2, 2, 1, 3, 0, 3, 0, 0, 0, 1, 3, 1, 1, 0, 2, 0, 1])
    assert net.layers[0] == ConvLayer(3, 5, 64, 3, 2)
    assert net.layers[1] == ConvLayer(1, 7, 24, 1, 1, (1,))
    assert net.layers[2] == ConvLayer(7, 3, 48, 2, 1, (2,))


def test_a_skip_connection_has_the_probability_of_its_anchors():
    controller = ConvController(SMALL, 2, seeded(1), hidden=5, bound=0.9)
    tokens = torch.tensor([[1, 2, 0, 1, 1]])
    lstm, state = controller.lstm, controller.lstm.start(1)
    with torch.no_grad():
        inputs, anchors = controller.first[None], []
        for layer in (tokens[0, :2], tokens[0, 2:4]):
            for kind, token in enumerate(layer):
                _, state = lstm(inputs, state)
                inputs = controller.embeddings[kind].weight[token][None]
            anchor, state = lstm(inputs, state)
            anchors.append(anchor)
            inputs = controller.first[None]
        w_prev, w_curr, v = (part.weight for part in (controller.previous, controller.current, controller.reads))
        on = torch.sigmoid(v @ torch.tanh(w_prev @ anchors[0][0] + w_curr @ anchors[1][0]))
        both = torch.cat([tokens, tokens])
        both[1, -1] = 0
        yes, no = controller.score(both).log_prob.exp()
    assert float(yes / (yes + no)) == pytest.approx(float(on), abs=1e-5)


def test_a_deeper_controller_shares_the_weights_and_both_replay_what_they_drew():
    controller = ConvController(SMALL, 2, seeded(2))
    assert all(float(parameter.detach().abs().max()) <= 0.08 for parameter in controller.parameters())
    deeper = controller.at_depth(4)
    assert (controller.depth, deeper.depth) == (2, 4)
    assert all(a is b for a, b in zip(controller.parameters(), deeper.parameters(), strict=True))
    for each in (controller, deeper):
        drawn = each.sample(20, seeded(3))
        assert torch.allclose(each.score(drawn.tokens).log_prob, drawn.log_prob, atol=1e-5)
        assert len(SMALL.read(drawn.tokens[0].tolist()).layers) == each.depth
    deeper.score(deeper.sample(8, seeded(4)).tokens).log_prob.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in controller.parameters())


def test_the_depth_grows_with_the_children():
    recipe = NasRlRecipe(layers=6, deepen_by=2, deepen_every=1600)
    assert [recipe.depth_after(children) for children in (0, 1599, 1600, 12799)] == [6, 6, 8, 20]
    assert NasRlRecipe(layers=6, deepen_every=0).depth_after(9999) == 6


def test_it_finds_planted_choices_and_skip_connections():
    def reward(net):
        layers = net.layers[1:]
        wanted = sum((layer.filter_height == 3) + (number in layer.inputs) for number, layer in enumerate(layers, 1))
        return wanted / (2 * len(layers))

    generator = seeded(5)
    policy = Policy(ConvController(SMALL, 3, generator), PolicyRecipe(lr=0.03, baseline_decay=0.8))
    means = []
    for _ in range(40):
        tokens = policy.sample(10, generator).tokens
        rewards = [reward(SMALL.read(row)) for row in tokens.tolist()]
        policy.update(tokens, rewards)
        means.append(sum(rewards) / len(rewards))
    assert sum(means[:3]) / 3 < 0.6
    assert sum(means[-5:]) / 5 > 0.9


def test_what_is_ruled_out_by_one_choice_costs_no_token():
    drawn = Decisions.drawn(3, seeded())
    ConvController(SMALL, 3, seeded()).walk(drawn)
    assert drawn.tokens.shape == (3, 3 * 2 + 0 + 1 + 2)
    assert SMALL.depth(9) == 3
