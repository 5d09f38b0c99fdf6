"""Second-order gradients equal autograd through the unrolled step."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.darts.alphas import Alphas
from ofa_kit.nas.darts.gradients import Unrolled, alpha_gradient, exact_second_order, first_order, second_order
from ofa_kit.nas.darts.network import SearchNetwork

OPERATIONS = ("none", "skip_connect", "sep_conv_3x3", "dil_conv_3x3", "avg_pool_3x3")
STEP = Unrolled(xi=0.3, momentum=0.9, weight_decay=0.01, epsilon=1e-4)


class Smooth(nn.Module):
    """A small network of tanh whose hidden units are mixed by alphas."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, mixture):
        hidden = torch.tanh(self.first(x))
        squared = hidden**2 * mixture.reduce[1, 2]
        return self.last(hidden * mixture.normal[2, 1] + torch.sin(hidden) * mixture.normal[0, 0] + squared)


def problem(network, shape, seed=0):
    """Return losses, weights, alphas and momentum buffers in double precision."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double()
    start = Alphas.fresh(2, len(OPERATIONS), generator)
    alphas = start.with_tensors([(300 * t.detach()).double().requires_grad_() for t in start.tensors])
    data = torch.randn((2, 6, *shape), generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 6), generator=generator)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    buffers = {n: 0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in weights.items()}

    def loss_on(part):
        def loss(weights, alphas):
            return F.cross_entropy(functional_call(network, weights, (data[part], alphas.mixture())), labels[part])

        return loss

    return loss_on(0), loss_on(1), weights, alphas, buffers


def smooth():
    torch.manual_seed(0)
    return problem(Smooth(), (6,))


def with_kinks():
    torch.manual_seed(0)
    shape = CellNetworkShape(cells=3, channels=4, image_size=6, in_channels=1, num_classes=3)
    return problem(SearchNetwork(shape, nodes=2, operations=OPERATIONS), (1, 6, 6))


def through_the_step(train, validation, weights, alphas, buffers, step):
    """Let autograd do everything."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    gradients = torch.autograd.grad(train(leaves, alphas), list(leaves.values()), create_graph=True)
    moved = {
        name: weight - step.xi * (step.momentum * buffers[name] + gradient + step.weight_decay * weight)
        for (name, weight), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return torch.autograd.grad(validation(moved, alphas), alphas.tensors)


def largest_difference(found, expected):
    scale = max(float(tensor.abs().max()) for tensor in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / scale


@pytest.mark.parametrize("order", ["second", "exact"])
def test_both_equal_autograd_on_a_smooth_network(order):
    train, validation, weights, alphas, buffers = smooth()
    found = alpha_gradient(order, train, validation, weights, alphas, buffers=buffers, unrolled=STEP)
    expected = through_the_step(train, validation, weights, alphas, buffers, STEP)
    assert largest_difference(found.gradients, expected) < 1e-6
    assert largest_difference(first_order(validation, weights, alphas).gradients, expected) > 1e-2


def test_the_exact_one_equals_autograd_on_a_network_with_kinks():
    train, validation, weights, alphas, buffers = with_kinks()
    found = exact_second_order(train, validation, weights, alphas, buffers=buffers, unrolled=STEP)
    expected = through_the_step(train, validation, weights, alphas, buffers, STEP)
    assert largest_difference(found.gradients, expected) < 1e-6


@pytest.mark.parametrize("step", [second_order, exact_second_order])
def test_without_a_step_second_order_is_first_order(step):
    train, validation, weights, alphas, buffers = with_kinks()
    still = Unrolled(xi=0.0, momentum=0.9, weight_decay=0.01)
    found = step(train, validation, weights, alphas, buffers=buffers, unrolled=still)
    expected = first_order(validation, weights, alphas)
    assert largest_difference(found.gradients, expected.gradients) < 1e-9
    assert found.validation_loss == pytest.approx(expected.validation_loss)


def test_the_gradient_of_alphas_leaves_the_weights_alone():
    train, validation, weights, alphas, buffers = with_kinks()
    before = {name: weight.clone() for name, weight in weights.items()}
    second_order(train, validation, weights, alphas, buffers=buffers, unrolled=STEP)
    assert all(torch.equal(weights[name], weight) for name, weight in before.items())
