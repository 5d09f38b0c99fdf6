"""PyTorch as a backend: the graph computes what ONNX Runtime computes, whatever the family; timing needs a GPU."""

from dataclasses import replace
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.errors import BackendError, UnknownNameError
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.latency.backends.backend import Backend
from ofa_kit.latency.backends.onnxruntime import OrtBackend
from ofa_kit.latency.backends.torch_cuda import TorchCudaBackend
from ofa_kit.latency.backends.torch_graph import TorchGraph
from ofa_kit.latency.device import DeviceProfile

SPACES = {
    "mbv3-tiny": None,
    "resnet-small-images": None,
    "bignas-small-images": None,
    "mbv3-small-images": None,
    "ofa-resnet50d": 33,
    "ofa-proxyless-w1.3": 32,
}
"""Space: resolution, where one of its own would take long; odd ones show how pooling rounds."""
BATCH = 2
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no NVIDIA GPU")


def subnet(space_name: str, rng: np.random.Generator, batch: int | None = BATCH) -> onnx.ModelProto:
    space = preset(space_name)
    arch = space.sample(rng)
    arch = replace(arch, resolution=SPACES[space_name] or arch.resolution)
    return network_model(layers(space, arch), random_weights, batch=batch)


def images_for(model: onnx.ModelProto, rng: np.random.Generator) -> np.ndarray:
    _, *shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return rng.standard_normal((BATCH, *shape), dtype=np.float32)


def ort_logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    device = DeviceProfile(name="cpu", backend="onnxruntime", batch=BATCH)
    return OrtBackend(device).load(model.SerializeToString()).predict([images])


def torch_logits(model: onnx.ModelProto, images: np.ndarray, *, channels_last: bool = False) -> np.ndarray:
    graph = TorchGraph(model, device="cpu", channels_last=channels_last)
    with torch.no_grad():
        return graph(graph.tensor(images))[0].numpy()


@pytest.mark.parametrize("space_name", SPACES)
def test_the_torch_graph_computes_what_onnx_runtime_computes(space_name: str, rng: np.random.Generator) -> None:
    for _ in range(3):
        model = subnet(space_name, rng)
        images = images_for(model, rng)
        expected = ort_logits(model, images)
        np.testing.assert_allclose(torch_logits(model, images), expected, rtol=1e-4, atol=1e-4)


def test_memory_layout_changes_no_logits(rng: np.random.Generator) -> None:
    model = subnet("bignas-small-images", rng)
    images = images_for(model, rng)
    expected = torch_logits(model, images)
    np.testing.assert_allclose(torch_logits(model, images, channels_last=True), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_stays_close_to_single(rng: np.random.Generator) -> None:
    model = subnet("mbv3-tiny", rng)
    images = images_for(model, rng)
    graph = TorchGraph(model, device="cpu", half=True)
    with torch.no_grad():
        found = graph(graph.tensor(images))[0]
    expected = torch_logits(model, images)
    assert found.dtype == torch.float16
    assert np.abs(found.float().numpy() - expected).max() <= 0.02 * np.abs(expected).max()


def test_an_open_batch_size_takes_any_batch(rng: np.random.Generator) -> None:
    model = subnet("mbv3-tiny", rng, batch=None)
    images = images_for(model, rng)
    np.testing.assert_allclose(torch_logits(model, images), ort_logits(model, images), rtol=1e-4, atol=1e-4)


def test_blocks_side_by_side_give_an_output_each(rng: np.random.Generator) -> None:
    space = preset("mbv3-tiny")
    net = layers(space, space.largest())
    model = merged_model({f"b{i}": layer for i, layer in enumerate(net)}, batch=1)
    graph = TorchGraph(model, device="cpu")
    inputs = [graph.tensor(rng.standard_normal(shape, dtype=np.float32)) for shape in graph.inputs.values()]
    with torch.no_grad():
        found = [tuple(output.shape) for output in graph(*inputs)]
    expected = [tuple(dim.dim_value for dim in output.type.tensor_type.shape.dim) for output in model.graph.output]
    assert found == expected
    assert len(found) == len(net)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Det", ["x"], ["y"], name="b1/odd"), r"operator 'Det' \(node 'b1/odd'\)"),
        (helper.make_node("Relu", ["x"], ["y"], name="b1/odd", domain="mine"), "operator 'Relu'"),
        (helper.make_node("HardSigmoid", ["x"], ["y"], name="b1/odd"), "alpha or beta of operator 'HardSigmoid'"),
        (
            helper.make_node("MaxPool", ["x"], ["y"], name="b1/odd", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
            "auto_pad of operator 'MaxPool'",
        ),
    ],
)
def test_what_the_torch_graph_does_not_know_is_named(node: onnx.NodeProto, message: str) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 8, 8)) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]))
    with pytest.raises(BackendError, match=message) as caught:
        TorchGraph(model, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"tf23": "on"}, {"memory_format": "nhwc"}])
def test_options_that_do_not_exist_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError):
        TorchCudaBackend(DeviceProfile(name="gpu", backend="torch-cuda", options=options))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("launch", ["eager", "cuda-graph"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 0.02)])
def test_the_gpu_computes_what_onnx_runtime_computes(
    launch: Literal["eager", "cuda-graph"],
    precision: Literal["fp32", "fp16"],
    tolerance: float,
    rng: np.random.Generator,
) -> None:
    profile = DeviceProfile(
        name="gpu", backend="torch-cuda", precision=precision, batch=BATCH, launch=launch, options={"tf32": "off"}
    )
    backend: Backend = TorchCudaBackend(profile)
    model = subnet("mbv3-small-images", rng)
    loaded = backend.load(model.SerializeToString())
    for images in (images_for(model, rng), images_for(model, rng)):
        expected = ort_logits(model, images)
        assert np.abs(loaded.predict([images]) - expected).max() <= tolerance * np.abs(expected).max()
    on_gpu_s, wall_s = backend.timer(loaded)
    assert 0 < on_gpu_s <= wall_s
