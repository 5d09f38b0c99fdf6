import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.errors import BackendError
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.graphs.precision import in_precision, serialized_in_precision

SPACES = pytest.mark.parametrize("name", ["mbv3-tiny", "resnet-small-images"])
KINDS = pytest.mark.parametrize(("precision", "flavour"), [("fp16", "cpu"), ("int8", "cpu"), ("int8", "tensorrt")])
RELATIVE_ERROR = {"fp16": 0.002, "int8": 0.05}


def network(name, batch=1):
    space = preset(name)
    return network_model(layers(space, space.largest()), random_weights, batch=batch, metadata={"space": name})


def merged(name):
    space = preset(name)
    blocks = list(distinct_layers(space, space.resolutions[0]).values())[::4]
    return merged_model({f"b{i}": layer for i, layer in enumerate(blocks)}, batch=1)


def random_images(model, count=4):
    shape = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape, dtype=np.float32) for _ in range(count)]


def logits(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in images])


def initializers(model):
    return {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}


@SPACES
@KINDS
@pytest.mark.parametrize("batch", [1, None], ids=["batch-1", "open-batch"])
def test_a_model_computes_nearly_the_same_in_every_precision(name, precision, flavour, batch):
    model = network(name, batch)
    images = random_images(model)
    converted = in_precision(model, precision, flavour)
    onnx.checker.check_model(converted, full_check=True)
    expected = logits(model, images)
    error = np.linalg.norm(logits(converted, images) - expected) / np.linalg.norm(expected)
    assert 0 < error < RELATIVE_ERROR[precision]


@KINDS
def test_callers_feed_every_precision_alike_and_the_source_stays_as_it_was(precision, flavour):
    model = network("mbv3-tiny")
    before = model.SerializeToString()
    converted = in_precision(model, precision, flavour)
    assert model.SerializeToString() == before
    assert converted.metadata_props == model.metadata_props
    for ends, ends_before in (
        (converted.graph.input, model.graph.input),
        (converted.graph.output, model.graph.output),
    ):
        assert [(end.name, end.type.tensor_type) for end in ends] == [
            (end.name, end.type.tensor_type) for end in ends_before
        ]


def test_fp32_is_the_model_itself():
    model = network("mbv3-tiny")
    assert in_precision(model, "fp32") is model


@SPACES
@KINDS
def test_every_node_can_be_told_by_its_block(name, precision, flavour):
    model = merged(name)
    converted = in_precision(model, precision, flavour)
    outside = [node.name for node in converted.graph.node if not re.match(r"b\d+/", node.name)]
    of_the_graph = (*(value.name for value in model.graph.input), "graph_input_cast", "graph_output_cast")
    assert all(name.startswith(of_the_graph) for name in outside), outside
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert convolutions <= {node.name for node in converted.graph.node}


def test_half_leaves_no_single_precision_weight():
    kinds = {value.data_type for value in in_precision(network("mbv3-tiny"), "fp16").graph.initializer}
    assert kinds == {TensorProto.FLOAT16}


def test_int8_for_the_cpu_has_unsigned_activations_and_a_scale_per_channel():
    model = in_precision(network("resnet-small-images"), "int8", "cpu")
    values = initializers(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert values[node.input[2]].dtype == np.uint8
        if node.op_type == "Conv":
            weight = next(n for n in model.graph.node if n.output[0] == node.input[1])
            assert values[weight.input[0]].dtype == np.int8
            assert values[weight.input[1]].shape == (values[weight.input[0]].shape[0],)


def test_int8_for_tensorrt_is_symmetric_keeps_biases_and_has_no_pair_before_an_activation():
    source = network("resnet-small-images")
    model = in_precision(source, "int8", "tensorrt")
    values = initializers(model)
    producers = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero_point = values[node.input[2]]
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
            source_of = producers.get(node.input[0])
            assert source_of is None or source_of.op_type != "Conv" or feeds_an_add(model, node)
    for name, value in initializers(source).items():
        np.testing.assert_array_equal(values[name], value)


def feeds_an_add(model, quantize):
    """Whether a QuantizeLinear's pair is an input of an Add: residual sums are made of int8."""
    pair = next(node for node in model.graph.node if quantize.output[0] in node.input)
    return all(node.op_type == "Add" for node in model.graph.node if pair.output[0] in node.input)


def test_given_images_decide_the_ranges():
    model = network("mbv3-tiny")
    images = [3 * batch for batch in random_images(model)]
    low, high = min(batch.min() for batch in images), max(batch.max() for batch in images)
    scale = initializers(in_precision(model, "int8", images=images))["images_scale"]
    assert scale == pytest.approx((high - low) / 255, rel=1e-5)


@pytest.mark.parametrize("flavour", ["cpu", "tensorrt"])
def test_a_quantized_model_is_not_quantized_again(flavour):
    model = in_precision(network("mbv3-tiny"), "int8", "cpu")
    assert in_precision(model, "int8", flavour) is model


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_is_no_model_is_refused_in_one_line(precision):
    with pytest.raises(BackendError, match=f"cannot bring the model to {precision}") as refused:
        serialized_in_precision(b"no model", precision)
    assert "\n" not in str(refused.value)
