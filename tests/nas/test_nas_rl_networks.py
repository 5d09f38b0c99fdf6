"""ConvNets are values; PyTorch's network, the counts, the ONNX model and the picture are made of the same reading."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_kit.errors import WeightsError
from ofa_kit.latency.backends.torch_graph import TorchGraph
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.nas_rl.conv_net import ChildShape, ConvLayer, ConvNet, PlacedNet
from ofa_kit.nas.nas_rl.network import ConvChild
from ofa_kit.nas.nas_rl.onnx import child_model
from ofa_kit.nas.nas_rl.picture import save_picture
from ofa_kit.nas.nas_rl.text import EXAMPLE, read_conv_net, write_conv_net

SHAPE = ChildShape(in_channels=2, image_size=9, num_classes=3)


@st.composite
def conv_nets(draw):
    sides, strides = st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 2, 3])
    layers = []
    for number in range(draw(st.integers(1, 6))):
        inputs = tuple(sorted(draw(st.sets(st.integers(1, max(1, number)))))) if number else ()
        layers.append(
            ConvLayer(draw(sides), draw(sides), draw(st.integers(1, 9)), draw(strides), draw(strides), inputs)
        )
    return ConvNet(tuple(layers))


@given(conv_nets(), conv_nets())
def test_the_text_form_round_trips_and_the_key_tells_networks_apart(net, other):
    assert read_conv_net(write_conv_net(net)) == net
    assert (net.key == other.key) == (net == other)
    assert len(net.key) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "layer 1 of a network is ''"),
        ("3x3*24; 3x3", "layer 2 of a network is '3x3'"),
        ("2x3*24", "sides must be odd"),
        ("3x3*24 (1)", "layer 1 reads layer 1; it can read earlier ones only"),
        ("3x3*24; 3x3*24 (2)", "layer 2 reads layer 2"),
        ("3x3*24; 1x1*2 (1,1)", "list layers once"),
        ("3x3*24; 1x1*2 (1,,1)", "list numbers of layers"),
        ("3x3*0", "layer 1 of a network is '3x3\\*0'"),
    ],
)
def test_what_is_no_network_is_refused_with_the_layer(text, message):
    with pytest.raises(WeightsError, match=message):
        read_conv_net(text)


@settings(max_examples=25, deadline=None)
@given(conv_nets())
def test_counts_shapes_and_onnx_are_those_of_the_pytorch_network(net):
    network = ConvChild.fresh(net, SHAPE, seed=1)
    placed = PlacedNet.of(net, SHAPE)
    assert (placed.macs, placed.params) == (macs_of(network, SHAPE.image), params_of(network))
    generator = torch.Generator().manual_seed(0)
    network(torch.randn(8, *SHAPE.image, generator=generator))
    images = torch.randn(3, *SHAPE.image, generator=generator)
    with torch.no_grad():
        expected = network.eval()(images).numpy()
    model = child_model(network, batch=None)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for found in (session.run(None, {"images": images.numpy()})[0], TorchGraph(model, device="cpu")(images)[0].numpy()):
        assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_layers_read_what_the_paper_says():
    net = read_conv_net("3x3*4; 3x3/2x1*5; 1x3*6 (1,2); 5x5*7")
    assert net.sources(2) == net.sources(4) == (0,)
    assert net.unread == (3, 4)
    network = ConvChild.fresh(net, SHAPE, seed=0).eval()
    images = torch.randn(2, *SHAPE.image)
    with torch.no_grad():
        first, second = network.layers[0](images), network.layers[1](images)
        assert (tuple(first.shape[2:]), tuple(second.shape[2:])) == ((9, 9), (5, 9))
        padded = torch.zeros(2, 5, 9, 9)
        padded[:, :, :5] = second
        third = network.layers[2](torch.cat([first, padded], 1))
        expected = network.classifier(torch.cat([third, network.layers[3](images)], 1).mean((2, 3)))
        assert torch.allclose(network(images), expected, atol=1e-6)
    conv, norm = network.layers[0].conv, network.layers[0].norm
    assert torch.equal(first, norm(torch.relu(conv(images)))), "batch norm stands behind the ReLU"


def test_a_picture_names_every_layer(tmp_path):
    net = read_conv_net(EXAMPLE)
    paths = save_picture(net, tmp_path)
    assert [path.name for path in paths] == ["network.svg", "network.png"]
    drawn = paths[0].read_text()
    assert "stride 2x1" in drawn
    assert all(f"{layer.filter_height}x{layer.filter_width}, {layer.filters}" in drawn for layer in net.layers)
