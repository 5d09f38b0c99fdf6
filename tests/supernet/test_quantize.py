"""Fake quantisation and the supernet of mixed precision."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from ofa_kit.arch.features import bit_operations_of
from ofa_kit.arch.layers import layers, macs
from ofa_kit.arch.presets import preset
from ofa_kit.export.onnx_export import folded_weights
from ofa_kit.graphs.build import CLIPPED as GRAPH_CLIPPED
from ofa_kit.graphs.build import network_model
from ofa_kit.supernet.quantize import CLIPPED, clipped_activation, quantized_weight
from ofa_kit.supernet.subnet import extract
from tests.laws.test_supernet_laws import images_for, lived_in

SPACE = preset("spos-bits-small-images")


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_weights_and_activations_have_as_many_values_as_their_bits_allow(bits):
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(bits))
    found = quantized_weight(x, bits).unique()
    torch.testing.assert_close(found, -found.flip(0), rtol=0, atol=1e-6)
    assert len(found) == 2**bits
    read = clipped_activation(x, torch.tensor(1.5), bits)
    torch.testing.assert_close(read.unique(), torch.linspace(0, 1.5, 2**bits), rtol=0, atol=1e-6)


def test_gradients_pass_rounding_straight_through():
    x = torch.tensor([-1.0, 0.4, 1.1, 2.0], requires_grad=True)
    clip = torch.tensor(1.5, requires_grad=True)
    clipped_activation(x, clip, 2).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    shares = torch.tensor([0.0, 0.4, 1.1, 1.5]) / 1.5
    rounding = ((3 * shares).round() / 3 - shares).sum()  # what is left of x's own share in clip * rounded(x / clip)
    torch.testing.assert_close(clip.grad, 1 + rounding)
    weight = torch.tensor([-2.0, -0.3, 0.7], requires_grad=True)
    quantized_weight(weight, 1).sum().backward()
    assert weight.grad.tolist() == [1, 1, 1]


def test_one_set_of_weights_serves_all_bits(rng):
    supernet = lived_in(SPACE.name).train()
    arch = SPACE.sample(rng)
    for bits in (1, 4):
        stages = tuple(
            replace(s, weight_bits=(bits,) * s.depth, activation_bits=(bits,) * s.depth) for s in arch.stages
        )
        supernet.zero_grad()
        F.cross_entropy(supernet(images_for(supernet, 8), replace(arch, stages=stages)), torch.arange(8)).backward()
        block = supernet.layers["stage1_block0"]
        assert block.middle.weight.grad.abs().sum() > 0
        assert (block.clips.grad != 0).any(0).tolist() == [other == bits for other in SPACE.stages[1].activation_bits]


def test_bit_operations_are_those_of_the_quantised_layers(rng):
    genomes = SPACE.sample_genomes(20, rng)
    for genome, found in zip(genomes, bit_operations_of(SPACE, genomes), strict=True):
        net = layers(SPACE, SPACE.decode(genome))
        assert found == sum(layer.macs * layer.weight_bits * layer.activation_bits for layer in net[1:-1])
    widest = replace(SPACE.largest(), stages=SPACE.largest().stages)
    inside = macs(SPACE, widest) - layers(SPACE, widest)[0].macs - layers(SPACE, widest)[-1].macs
    assert bit_operations_of(SPACE, SPACE.encode(widest)[None])[0] == 16 * inside


@torch.no_grad()
def test_the_onnx_graph_rounds_where_the_subnet_does(rng):
    supernet = lived_in(SPACE.name)
    images = images_for(supernet, 16)
    assert GRAPH_CLIPPED == CLIPPED
    for _ in range(4):
        subnet = extract(supernet, SPACE.sample(rng))

        def weights_of(layer, subnet=subnet):
            module = subnet.layers[layer.name]
            clips = {name: p.numpy() for name, p in module.named_parameters(recurse=False) if name in CLIPPED}
            return folded_weights(module) | clips

        model = network_model(subnet.specs, weights_of, batch=None).SerializeToString()
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        found, expected = session.run(None, {"images": images.numpy()})[0], subnet(images).numpy()
        error = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
        # Both sum in other orders: a value within 1e-7 of the middle of two steps may be rounded to the other one.
        assert np.median(error) <= 1e-5
        assert error.max() <= 0.05
