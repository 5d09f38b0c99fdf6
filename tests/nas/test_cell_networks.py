"""The networks of published genotypes have the parameters and multiply-adds of the authors' code."""

import pytest
import torch
from torch.nn import functional as F

from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.cells.dilated import DilatedDepthwise
from ofa_kit.nas.cells.network import CellNetwork, CellNetworkShape, DropPath
from ofa_kit.nas.cells.presets import PRESETS

CIFAR = CellNetworkShape(cells=20, channels=36)
ENAS_CIFAR = CellNetworkShape(cells=17, channels=36, layout="enas")
IMAGENET = CellNetworkShape(cells=14, channels=48, num_classes=1000, image_size=224, stem="photos")
PUBLISHED = [
    ("darts-v2", CIFAR, 3_349_342, 3_825_768, 528_359_040),
    ("darts-v2", IMAGENET, 4_718_752, 5_979_528, 529_911_552),
    ("darts-v1", CIFAR, 3_169_414, 3_645_840, 500_987_520),
    ("enas-micro", ENAS_CIFAR, 3_894_372, 4_389_220, 620_907_552),
]


@pytest.mark.parametrize(("name", "shape", "params", "with_auxiliary", "macs"), PUBLISHED)
def test_published_networks_have_the_published_counts(name, shape, params, with_auxiliary, macs):
    network = CellNetwork(PRESETS[name], shape, auxiliary=True)
    assert params_of(network) == with_auxiliary
    assert params_of(network) - params_of(network.auxiliary) == params
    assert macs_of(network, (3, shape.image_size, shape.image_size)) == macs


@pytest.mark.parametrize("layout", ["darts", "enas"])
@pytest.mark.parametrize("name", list(PRESETS))
def test_every_published_genotype_makes_a_network_that_learns(name, layout):
    torch.manual_seed(0)
    shape = CellNetworkShape(cells=3, channels=4, image_size=32, layout=layout)
    network = CellNetwork(PRESETS[name], shape, auxiliary=True)
    logits, extra = network.logits(torch.randn(2, 3, 32, 32), DropPath(0.3, torch.Generator().manual_seed(0)))
    assert logits.shape == extra.shape == (2, 10)
    (logits.sum() + extra.sum()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    images = torch.randn(2, 3, 32, 32)
    extra = network.logits(images)[1]
    assert extra is None
    assert torch.allclose(network(images)[:1], network(images[:1]), atol=1e-5)


def test_drop_path_keeps_the_mean_and_follows_its_generator():
    x = torch.ones(20_000, 1, 1, 1)
    once, again = (DropPath(0.3, torch.Generator().manual_seed(7))(x) for _ in range(2))
    assert torch.equal(once, again)
    assert abs(float(once.mean()) - 1) < 0.03
    assert sorted(set(once.flatten().tolist())) == pytest.approx([0.0, 1 / 0.7])


def test_odd_sizes_shrink_to_the_upper_half():
    shape = CellNetworkShape(cells=3, channels=4, image_size=7, in_channels=1)
    network = CellNetwork(PRESETS["darts-v2"], shape)
    assert network(torch.randn(2, 1, 7, 7)).shape == (2, 10)
    assert [place.out_size for place in shape.places] == [7, 4, 2]


def test_images_too_small_for_the_reductions_are_refused():
    with pytest.raises(RecipeError, match="too small for 6 cells"):
        CellNetwork(PRESETS["darts-v2"], CellNetworkShape(cells=6, channels=4, image_size=2))


def test_an_auxiliary_head_on_images_too_small_for_it_is_refused():
    shape = CellNetworkShape(cells=6, channels=4, image_size=8)
    with pytest.raises(RecipeError, match="auxiliary_weight: 0"):
        CellNetwork(PRESETS["darts-v2"], shape, auxiliary=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 8), (5, 7)])
def test_the_dilated_convolution_is_pytorchs_with_its_gradients(stride, height, width):
    torch.manual_seed(0)
    ours = DilatedDepthwise(3, 5, stride).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, ours.weight, stride=stride, padding=4, dilation=2, groups=3)
    found = ours(x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    seen = torch.randn_like(expected)
    pairs = (torch.autograd.grad(out, (x, ours.weight), seen) for out in (found, expected))
    for mine, theirs in zip(*pairs, strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(ours(x), expected)
