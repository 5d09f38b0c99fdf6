"""The search network computes what the sum over all operations is, with the authors' counts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS, all_edges
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.darts.alphas import Alphas, softmax_by_node
from ofa_kit.nas.darts.mixed import MixedOperation, Source, normalized
from ofa_kit.nas.darts.network import SearchNetwork

TINY = CellNetworkShape(cells=3, channels=4, image_size=8, in_channels=1)


def fresh(nodes=2, *, score_edges=False, seed=0):
    return Alphas.fresh(nodes, len(DARTS_OPERATIONS), torch.Generator().manual_seed(seed), score_edges=score_edges)


def test_the_paper_network_has_the_published_counts():
    network = SearchNetwork(CellNetworkShape(cells=8, channels=16))
    assert params_of(network) == 1_930_618
    in_convolutions = 300_253_184
    in_classifier = 256 * 10
    assert macs_of(network, (3, 32, 32), fresh(4).mixture()) == in_convolutions + in_classifier


@pytest.mark.parametrize("stride", [1, 2])
def test_a_mixed_operation_is_the_weighted_sum_of_its_operations(stride):
    torch.manual_seed(0)
    mixed = MixedOperation(DARTS_OPERATIONS, 4, stride).double()
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(len(DARTS_OPERATIONS), dtype=torch.float64, requires_grad=True)

    def plainly():
        total = 0
        for name, share in zip(DARTS_OPERATIONS[1:], shares[1:], strict=True):
            term = mixed.operations[name](x)
            if "pool" in name:
                term = F.batch_norm(term, None, None, training=True)
            total = total + share * term
        return total

    values = [*mixed.parameters(), x, shares]
    ours, plain = mixed(Source(x), shares), plainly()
    assert torch.allclose(ours, plain)
    for got, expected in zip(
        torch.autograd.grad(ours.sin().sum(), values), torch.autograd.grad(plain.sin().sum(), values), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-10)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_call_depends_on_its_arguments_alone(parts):
    torch.manual_seed(0)
    network = SearchNetwork(TINY, nodes=2, parts=parts)
    alphas = fresh(score_edges=parts > 1)
    images = torch.randn(4, 1, 8, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = network(images, alphas.mixture())
    network(images, fresh(seed=1).mixture())
    assert torch.equal(network(images, alphas.mixture()), first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    gradients = torch.autograd.grad(first.logsumexp(1).sum(), alphas.tensors)
    assert len(gradients) == (4 if parts > 1 else 2)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_partial_channels_mix_a_quarter_and_pass_the_others_by():
    torch.manual_seed(0)
    whole, partial = (params_of(SearchNetwork(TINY, nodes=2, parts=parts)) for parts in (1, 4))
    assert partial < whole
    network = SearchNetwork(TINY, nodes=2, parts=4)
    edge = network.cells[0].edges[0]
    x, rest = torch.randn(2, 1, 8, 8), torch.randn(2, 3, 8, 8)
    out = edge(Source(x, rest), torch.full((8,), 1 / 8))
    passed = [channel for channel in range(4) if any(torch.equal(out[:, channel], rest[:, c]) for c in range(3))]
    assert len(passed) == 3
    with pytest.raises(RecipeError, match="cannot be cut"):
        SearchNetwork(CellNetworkShape(cells=1, channels=6), parts=4)


def test_edge_scores_are_shared_out_in_each_node():
    shares = softmax_by_node(torch.randn(len(all_edges(4))))
    assert [round(float(part.sum()), 5) for part in shares.split([2, 3, 4, 5])] == [1.0] * 4


def test_fresh_alphas_are_undecided():
    assert fresh(4).entropy() == pytest.approx(float(torch.log(torch.tensor(8.0))), abs=1e-4)
    assert isinstance(SearchNetwork(TINY, nodes=2).cells, nn.ModuleList)


def test_gradients_are_the_same_with_channels_last():
    torch.manual_seed(0)
    images, gamma = torch.randn(4, 6, 8, 8), torch.rand(())
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x, share = images.clone(memory_format=layout).requires_grad_(), gamma.clone().requires_grad_()
        (normalized(x, share) * images.flip(0).clone(memory_format=layout)).sum().backward()
        found.append((x.grad, share.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
