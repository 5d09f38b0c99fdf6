"""What must hold between supernet, extracted subnet and ONNX."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ofa_kit.arch.layers import params
from ofa_kit.arch.presets import preset
from ofa_kit.export.compare import compare
from ofa_kit.export.onnx_export import export
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.supernet.channel_order import sort_channels
from ofa_kit.supernet.recalibrate import recalibrate, recalibrate_together
from ofa_kit.supernet.subnet import extract
from ofa_kit.supernet.supernet import Supernet, resize

SORTED = ["mbv3-tiny", "mbv3-small-images", "resnet-small-images", "bignas-small-images"]
SMALL = [*SORTED, "spos-small-images-channels"]
QUANTIZED = ["spos-bits-small-images"]
LARGE = ["ofa-mbv3-w1.0", "ofa-proxyless-w1.3", "ofa-resnet50d", "attentive-nas", "spos-shufflenet-channels"]


def lived_in(name: str, seed: int = 0) -> Supernet:
    """A supernet whose every tensor, statistics included, has values of its own."""
    generator = torch.Generator().manual_seed(seed)
    supernet = Supernet(preset(name), generator)
    with torch.no_grad():
        for key, tensor in supernet.state_dict().items():
            if "kernel_transforms" in key:
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
            elif key.endswith(("_bn.weight", "bn.weight", "running_var")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif key.endswith(("bias", "running_mean")):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return supernet.eval()


def images_for(supernet: Supernet, count: int = 2) -> torch.Tensor:
    size = max(supernet.space.resolutions)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, supernet.space.in_channels, size, size, generator=generator)


@pytest.mark.parametrize("name", SMALL + LARGE + QUANTIZED)
@torch.no_grad()
def test_extracted_subnet_computes_what_the_supernet_computes(name, rng):
    supernet = lived_in(name)
    images = images_for(supernet)
    for _ in range(50 if name in SMALL else 3):
        arch = supernet.space.sample(rng)
        expected = supernet(images, arch)
        found = extract(supernet, arch)(resize(images, arch.resolution))
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("name", SMALL)
def test_extracted_subnet_has_the_parameters_that_the_lowering_counts(name, rng):
    supernet = lived_in(name)
    for _ in range(10):
        arch = supernet.space.sample(rng)
        found = sum(p.numel() for p in extract(supernet, arch).parameters())
        assert found == params(supernet.space, arch)


def test_the_full_ofa_supernet_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in Supernet(preset("ofa-mbv3-w1.0")).parameters()) == 7_678_880
    assert sum(p.numel() for p in Supernet(preset("ofa-proxyless-w1.3")).parameters()) == 7_956_882
    assert sum(p.numel() for p in Supernet(preset("ofa-resnet50d")).parameters()) == 48_105_992


@pytest.mark.parametrize("name", [*SMALL, "ofa-mbv3-w1.0", "ofa-proxyless-w1.3"])
def test_onnx_computes_what_pytorch_computes(name, rng):
    supernet = lived_in(name)
    backend = backend_for(DeviceProfile.load("cpu-ort"))
    images = images_for(supernet, 4)
    labels = torch.zeros(4, dtype=torch.int64)
    for _ in range(10 if name in SMALL else 2):
        subnet = extract(supernet, supernet.space.sample(rng))
        session = backend.load(export(subnet, batch=None).SerializeToString())
        proof = compare(subnet, lambda x, session=session: session.predict([x]), [(images, labels)])
        assert proof.max_relative_difference <= 1e-4
        assert proof.correct_onnx == proof.correct_pytorch


def test_a_shared_weight_gets_the_sum_of_its_subnets_gradients(rng):
    supernet = lived_in("mbv3-tiny").train()
    images, labels = images_for(supernet, 8), torch.arange(8)
    archs = [supernet.space.sample(rng) for _ in range(3)]
    alone = []
    for arch in archs:
        supernet.zero_grad()
        F.cross_entropy(supernet(images, arch), labels).backward()
        alone.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in supernet.parameters()])
    supernet.zero_grad()
    for arch in archs:
        F.cross_entropy(supernet(images, arch), labels).backward()
    for parameter, *parts in zip(supernet.parameters(), *alone, strict=True):
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, sum(parts), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("expand_ratios", [1, 2])
@pytest.mark.parametrize("name", [*SORTED, "ofa-proxyless-w1.3"])
@torch.no_grad()
def test_sorting_channels_leaves_every_trained_subnet_unchanged(name, expand_ratios, rng):
    supernet = lived_in(name, seed=expand_ratios)
    trained = supernet.space.restricted(expand_ratios=expand_ratios)
    images = images_for(supernet)
    archs = [trained.sample(rng) for _ in range(12 if name in SORTED else 3)]
    before = [supernet(images, arch) for arch in archs]
    weights = supernet.state_dict()["layers.stage1_block1.project.weight"].clone()
    sort_channels(supernet, trained)
    assert not torch.equal(weights, supernet.state_dict()["layers.stage1_block1.project.weight"])
    for arch, expected in zip(archs, before, strict=True):
        assert (supernet(images, arch) - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_recalibration_uses_the_statistics_of_the_subnets_own_activations(rng):
    supernet = lived_in("mbv3-tiny")
    images = images_for(supernet, 64)
    subnet = recalibrate(extract(supernet, supernet.space.largest()), [images[:32], images[32:]])
    stem = subnet.layers["stem"]
    activations = [stem.conv(images[:32]), stem.conv(images[32:])]
    mean = sum(a.mean((0, 2, 3)) for a in activations) / 2
    variance = sum(a.var((0, 2, 3), correction=0) for a in activations) / 2
    torch.testing.assert_close(stem.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stem.bn.running_var, variance, rtol=1e-4, atol=1e-5)
    assert not subnet.training


@pytest.mark.parametrize("name", ["mbv3-tiny", "resnet-small-images", "spos-small-images-channels"])
@torch.no_grad()
def test_recalibration_together_gives_each_subnet_what_it_gets_alone(name, rng):
    supernet = lived_in(name)
    images = images_for(supernet, 48)
    batches = [images[:32], images[32:]]
    space = supernet.space
    archs = [space.largest(), *(space.sample(rng) for _ in range(3))]
    archs += [replace(space.largest(), resolution=archs[1].resolution), archs[1], space.mutate(archs[1], rng, 0.1)]
    together = recalibrate_together([extract(supernet, arch) for arch in archs], batches)
    for arch, found in zip(archs, together, strict=True):
        alone = recalibrate(extract(supernet, arch), batches)
        for (key, value), expected in zip(found.state_dict().items(), alone.state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=key)


def test_a_kernel_larger_than_its_map_is_cropped_exactly():
    supernet = lived_in("mbv3-tiny")
    arch = replace(supernet.space.largest(), resolution=8)
    images = images_for(supernet)
    with torch.no_grad():
        expected = extract(supernet, arch)(resize(images, 8))  # a plain convolution with padding, kernel 5 on 2x2
        torch.testing.assert_close(supernet(images, arch), expected, rtol=1e-5, atol=1e-6)
