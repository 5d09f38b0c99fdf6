"""ONNX models of cells compute what PyTorch does."""

import numpy as np
import onnxruntime
import pytest
import torch

from ofa_kit.graphs.precision import in_precision
from ofa_kit.latency.backends.torch_graph import TorchGraph
from ofa_kit.nas.cells.genotype import OPERATIONS
from ofa_kit.nas.cells.network import CellNetwork, CellNetworkShape
from ofa_kit.nas.cells.onnx import network_model, operation_model
from ofa_kit.nas.cells.operations import make_operation
from ofa_kit.nas.cells.presets import PRESETS


def run(model, array):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: array})[0]


@pytest.mark.parametrize(
    ("name", "stem", "size", "layout"),
    [
        ("darts-v2", "small-images", 14, "darts"),
        ("amoebanet", "small-images", 7, "darts"),
        ("nasnet", "photos", 48, "darts"),
        ("enas-micro", "small-images", 7, "enas"),
        ("amoebanet", "photos", 48, "enas"),
    ],
)
def test_an_exported_network_computes_what_pytorch_does(name, stem, size, layout):
    torch.manual_seed(0)
    shape = CellNetworkShape(cells=4, channels=4, image_size=size, stem=stem, layout=layout)
    network = CellNetwork(PRESETS[name], shape)
    for _ in range(3):
        network(torch.randn(8, 3, size, size))
    images = torch.randn(5, 3, size, size)
    with torch.no_grad():
        expected = network.eval()(images).numpy()
    model = network_model(network, batch=None)
    graph = TorchGraph(model, device="cpu")
    for found in (run(model, images.numpy()), graph(images)[0].numpy()):
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("layout", ["darts", "enas"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_single_operations_have_the_shape_of_pytorch(name, stride, layout):
    x = torch.randn(1, 4, 7, 7)
    model = operation_model(name, channels=4, size=7, stride=stride, layout=layout)
    found = run(model, x.numpy())
    assert found.shape == tuple(make_operation(name, 4, stride, layout=layout)(x).shape)
    assert np.abs(TorchGraph(model, device="cpu")(x)[0].numpy() - found).max() <= 1e-5


def test_a_network_in_int8_has_pairs_and_classifies():
    torch.manual_seed(0)
    network = CellNetwork(PRESETS["darts-v2"], CellNetworkShape(cells=3, channels=8, image_size=8)).eval()
    model = in_precision(network_model(network), "int8")
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert np.isfinite(run(model, np.zeros((1, 3, 8, 8), np.float32))).all()
