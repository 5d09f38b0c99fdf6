"""Expected latency: its gradient, what a one-hot mixture costs, and times measured on this machine."""

import pytest
import torch

from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS, all_edges
from ofa_kit.nas.cells.latency import CellLatency, OperationPlace
from ofa_kit.nas.cells.plan import places
from ofa_kit.nas.darts.alphas import Alphas
from ofa_kit.nas.darts.derive import derive
from ofa_kit.nas.darts.latency import LatencyTerm, drawn_in_two, expected_ms

PLACES = places(cells=6, channels=4, image_size=32)


def time_ms(place: OperationPlace) -> float:
    """Return any times that differ from place to place."""
    if place.is_free:
        return 0.0
    return (1 + DARTS_OPERATIONS.index(place.operation)) * place.size / place.stride / 100 + place.channels / 1000


def latency(nodes=4) -> CellLatency:
    return CellLatency.of_places(PLACES, nodes, DARTS_OPERATIONS, time_ms, fixed_ms=0.7)


def decided(nodes=4, *, score_edges=False, spread=1.0, seed=0) -> Alphas:
    generator = torch.Generator().manual_seed(seed)
    start = Alphas.fresh(nodes, len(DARTS_OPERATIONS), generator, score_edges=score_edges)
    return start.with_tensors([(1000 * spread * t.detach()).double().requires_grad_() for t in start.tensors])


@pytest.mark.parametrize("score_edges", [False, True])
@pytest.mark.parametrize("target_ms", [None, 1.0])
def test_the_gradient_equals_finite_differences(score_edges, target_ms):
    term = LatencyTerm(latency(), weight=0.3, target_ms=target_ms)
    alphas = decided(score_edges=score_edges)
    step = 1e-6
    for place, (tensor, gradient) in enumerate(zip(alphas.tensors, term.gradients(alphas), strict=True)):
        for index in range(0, tensor.numel(), 7):
            moved = []
            for sign in (1, -1):
                values = [t.detach().clone() for t in alphas.tensors]
                values[place].view(-1)[index] += sign * step
                moved.append(float(term.penalty(alphas.with_tensors(values))))
            assert float(gradient.reshape(-1)[index]) == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-8)


def test_below_the_target_nothing_is_paid():
    term = LatencyTerm(latency(), weight=0.3, target_ms=1000.0)
    assert float(term.penalty(decided()).detach()) == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in term.gradients(decided()))


def test_above_the_target_the_term_draws_until_the_derived_cells_are_within_it():
    found = latency()
    alphas = decided(spread=0.01)
    start_ms = found.of_genotype(derive(alphas.mixture(), DARTS_OPERATIONS))
    term = LatencyTerm(found, weight=1.0, target_ms=0.6 * start_ms)
    adam = torch.optim.Adam(alphas.tensors, lr=0.01)
    assert not term.is_met(alphas)
    steps = 0
    while not term.is_met(alphas) and steps < 200:
        for tensor, gradient in zip(alphas.tensors, term.gradients(alphas), strict=True):
            tensor.grad = gradient
        adam.step()
        steps += 1
    assert term.is_met(alphas)
    assert found.of_genotype(derive(alphas.mixture(), DARTS_OPERATIONS)) <= 0.6 * start_ms
    assert all(float(gradient.abs().max()) == 0 for gradient in term.gradients(alphas))


def test_none_does_not_make_a_network_faster():
    alphas = decided()
    values = [t.detach().clone() for t in alphas.tensors]
    for value in values:
        value[:, 0] += 5
    assert torch.allclose(expected_ms(latency(), alphas), expected_ms(latency(), alphas.with_tensors(values)))


def test_where_all_is_decided_the_expectation_is_the_derived_network():
    """A single node keeps both its edges."""
    alphas = decided(1, spread=1000.0)
    genotype = derive(alphas.mixture(), DARTS_OPERATIONS)
    assert float(expected_ms(latency(1), alphas).detach()) == pytest.approx(latency(1).of_genotype(genotype), rel=1e-6)


def test_edges_count_their_chance_to_be_kept():
    """Draw two of four edges by their shares, many times."""
    shares = torch.tensor([0.6, 0.25, 0.1, 0.05])
    drawn = torch.multinomial(shares.expand(40_000, -1), 2, generator=torch.Generator().manual_seed(0))
    counted = drawn.flatten().bincount() / len(drawn)
    assert torch.allclose(drawn_in_two(shares), counted, atol=0.01)
    assert float(drawn_in_two(shares).sum()) == pytest.approx(2)
    assert torch.allclose(drawn_in_two(torch.tensor([0.999, 0.001])), torch.ones(2), atol=1e-4)


def test_derivation_keeps_two_strong_edges_and_no_none():
    alphas = decided()
    values = [t.detach().clone() for t in alphas.tensors]
    values[0][:, 0] += 50  # none everywhere
    values[0][all_edges(4).index((5, 3)), 4] += 70
    values[0][all_edges(4).index((5, 0)), 3] += 59
    genotype = derive(alphas.with_tensors(values).mixture(), DARTS_OPERATIONS)
    assert genotype.normal.pairs[-2:] == [("sep_conv_3x3", 3), ("skip_connect", 0)]
    assert "none" not in dict(genotype.normal.pairs) | dict(genotype.reduce.pairs)
    assert genotype.normal.concat == (2, 3, 4, 5)
