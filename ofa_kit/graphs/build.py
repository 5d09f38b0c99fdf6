"""Layers to ONNX: one builder for profiling graphs (random weights) and for exported models (trained weights).

Batch norm is already folded into the convolutions' weights and biases.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ofa_kit.arch.layer import Layer

OPSET = 18
IR_VERSION = 10
Weights = Mapping[str, NDArray[np.float32]]
WeightsOf = Callable[[Layer], Weights]
SPLIT = ((0, "even"), (1, "odd"))
CLIPPED = ("input_clip", "reduce_clip", "middle_clip")
"""Where a quantised bottleneck clips what its convolutions read."""


def weight_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Return the folded tensors that a layer needs, by name."""
    inside, hidden, outside, k = layer.in_channels, layer.hidden_channels, layer.out_channels, layer.kernel_size
    if layer.op == "max_pool":
        return {}
    if layer.op == "linear":
        return {"weight": (outside, inside)} | ({"bias": (outside,)} if layer.classifier_bias else {})
    if layer.branches.main:
        return {
            name: shape
            for conv in layer.branches.convs
            for name, shape in {
                f"{conv.part}.weight": conv.weight_shape,
                f"{conv.part}.bias": (conv.out_channels,),
            }.items()
        }
    if layer.op == "pooled_conv":
        return _conv_shapes("conv", outside, inside, 1, bias=layer.bias)
    if layer.op == "conv":
        return _conv_shapes("conv", outside, inside, k)
    if layer.op == "bottleneck":
        shapes = _conv_shapes("reduce", hidden, inside, 1) | _conv_shapes("middle", hidden, hidden, k)
        shapes |= dict.fromkeys(CLIPPED, ()) if layer.quantized else {}
    else:
        shapes = _conv_shapes("expand", hidden, inside, 1) if layer.expands else {}
        shapes |= _conv_shapes("depthwise", hidden, 1, k)
    if layer.squeeze_channels:
        shapes |= _conv_shapes("se_reduce", layer.squeeze_channels, hidden, 1)
        shapes |= _conv_shapes("se_expand", hidden, layer.squeeze_channels, 1)
    shapes |= _conv_shapes("project", outside, hidden, 1)
    return shapes | (
        _conv_shapes("shortcut", outside, inside, 1, bias=layer.op == "bottleneck") if layer.shortcut_conv else {}
    )


def random_weights(layer: Layer) -> Weights:
    """Return weights whose scale keeps activations finite; the same for the same layer."""
    rng = np.random.default_rng(zlib.crc32(layer.key.encode()))
    return {
        name: (rng.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))).astype(np.float32)
        if shape
        else np.array(1.0, np.float32)
        for name, shape in weight_shapes(layer).items()
    }


def network_model(
    net: Sequence[Layer], weights_of: WeightsOf, *, batch: int | None = 1, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """Return the model of a whole network: images (N, C, R, R) to logits (N, classes); batch None leaves N open."""
    graph = _Graph()
    tensor = "images"
    for layer in net:
        tensor = graph.add_layer(layer, tensor, weights_of(layer), prefix=layer.name)
    graph.rename_output(tensor, "logits")
    first, last = net[0], net[-1]
    size = batch if batch is not None else "batch"
    return _model(
        graph,
        [_value("images", (size, first.in_channels, first.input_size, first.input_size))],
        [_value("logits", (size, last.out_channels))],
        metadata or {},
    )


def merged_model(blocks: Mapping[str, Layer], *, batch: int) -> onnx.ModelProto:
    """Return one model that runs every block side by side; each block's node names start with its prefix.

    Each block has its own input and output: runtimes merge equal nodes that read the same tensor, and skip what
    nobody reads.
    """
    graph = _Graph(name_every_kernel=True)
    inputs, outputs = [], []
    for prefix, layer in blocks.items():
        name, shape = f"{prefix}_in", (batch, layer.in_channels, layer.input_size, layer.input_size)
        inputs.append(_value(name, shape))
        tensor = graph.add_layer(layer, name, random_weights(layer), prefix=prefix)
        outputs.append(_value(tensor, output_shape(layer, batch)))
    return _model(graph, inputs, outputs, {})


def output_shape(layer: Layer, batch: int) -> tuple[int, ...]:
    """Return the shape of a block's output."""
    if layer.op == "linear":
        return (batch, layer.out_channels)
    return (batch, layer.out_channels, layer.output_size, layer.output_size)


class _Graph:
    """Nodes and weights under construction.

    ONNX Runtime's CPU provider runs HardSwish as HardSigmoid and Mul under names of its own; `name_every_kernel`
    writes that pair out, so that the profiler's events can be told apart.
    """

    def __init__(self, *, name_every_kernel: bool = False) -> None:
        self.name_every_kernel = name_every_kernel
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add_layer(self, layer: Layer, tensor: str, weights: Weights, *, prefix: str) -> str:
        """Append one layer's nodes and return its output tensor."""

        def conv(part: str, source: str, **attributes: object) -> str:
            names = [source]
            for kind in ("weight", "bias"):
                if f"{part}.{kind}" in weights:
                    names.append(self._weight(f"{prefix}/{part}.{kind}", weights[f"{part}.{kind}"]))
            return self._node("Conv", names, f"{prefix}/{part}", **attributes)

        k, act = layer.kernel_size, layer.activation
        spatial = {"kernel_shape": [k, k], "strides": [layer.stride] * 2, "pads": [k // 2] * 4}
        if layer.op == "max_pool":
            return self._node("MaxPool", [tensor], f"{prefix}/pool", **spatial)
        if layer.op == "conv":
            output = self._activation(act, conv("conv", tensor, **spatial), f"{prefix}/act")
            return self._node("Add", [output, tensor], f"{prefix}/add") if layer.shortcut else output
        if layer.op == "pooled_conv":
            pooled = self._node("GlobalAveragePool", [tensor], f"{prefix}/pool")
            return self._activation(act, conv("conv", pooled), f"{prefix}/act")
        if layer.op == "linear":
            return self._linear(layer, tensor, weights, prefix)
        if layer.branches.main:
            return self._unit(layer, tensor, conv, prefix)
        source = tensor
        read = tensor
        if layer.op == "bottleneck":

            def inside(name: str, output: str) -> str:
                if layer.quantized:
                    return self._clipped(output, weights[f"{name}_clip"], layer.activation_bits, f"{prefix}/{name}_act")
                return self._activation(act, output, f"{prefix}/{name}_act")

            tensor = read = inside("input", tensor) if layer.quantized else tensor
            tensor = inside("reduce", conv("reduce", tensor))
            tensor = inside("middle", conv("middle", tensor, **spatial))
        else:
            if layer.expands:
                tensor = self._activation(act, conv("expand", tensor), f"{prefix}/expand_act")
            tensor = conv("depthwise", tensor, group=layer.hidden_channels, **spatial)
            tensor = self._activation(act, tensor, f"{prefix}/depthwise_act")
        if layer.squeeze_channels:
            pooled = self._node("GlobalAveragePool", [tensor], f"{prefix}/se_pool")
            squeezed = self._activation(layer.squeeze_activation, conv("se_reduce", pooled), f"{prefix}/se_act")
            gate = self._activation(layer.gate, conv("se_expand", squeezed), f"{prefix}/se_gate")
            tensor = self._node("Mul", [tensor, gate], f"{prefix}/se_scale")
        tensor = conv("project", tensor)
        if not layer.shortcut:
            return tensor
        if layer.projected:
            source, stride = read, [layer.stride] * 2
            if layer.stride > 1 and layer.downsample == "avgpool_conv":
                pooling = {"kernel_shape": stride, "strides": stride, "ceil_mode": 1, "count_include_pad": 0}
                source, stride = self._node("AveragePool", [source], f"{prefix}/shortcut_pool", **pooling), [1, 1]
            source = conv("shortcut", source, strides=stride) if layer.shortcut_conv else source
        tensor = self._node("Add", [tensor, source], f"{prefix}/add")
        return self._activation(act, tensor, f"{prefix}/act") if layer.op == "bottleneck" else tensor

    def _linear(self, layer: Layer, tensor: str, weights: Weights, prefix: str) -> str:
        if layer.input_size > 1:
            tensor = self._node("GlobalAveragePool", [tensor], f"{prefix}/pool")
        flat = self._node("Flatten", [tensor], f"{prefix}/flatten", axis=1)
        names = [self._weight(f"{prefix}/{kind}", weights[kind]) for kind in ("weight", "bias") if kind in weights]
        return self._node("Gemm", [flat, *names], f"{prefix}/gemm", transB=1)

    def _unit(self, layer: Layer, tensor: str, conv: Callable[..., str], prefix: str) -> str:
        kept = convolved = tensor
        if layer.stride == 1:
            kept, convolved = (self._every_second(tensor, start, f"{prefix}/{name}") for start, name in SPLIT)
        ends = []
        for source, branch in ((kept, layer.branches.short), (convolved, layer.branches.main)):
            for one in branch:
                k = one.kernel_size
                spatial = {"kernel_shape": [k, k], "strides": [one.stride] * 2, "pads": [k // 2] * 4}
                source = conv(one.part, source, group=one.groups, **spatial)
                source = self._activation(one.activation, source, f"{prefix}/{one.part}_act")
            ends.append(source)
        return self._node("Concat", ends, f"{prefix}/concat", axis=1)

    def _every_second(self, tensor: str, start: int, name: str) -> str:
        """Take every second channel from `start` on."""
        bounds = {"starts": start, "ends": np.iinfo(np.int64).max, "axes": 1, "steps": 2}
        names = [self._weight(f"{name}_{key}", np.array([value], np.int64)) for key, value in bounds.items()]
        return self._node("Slice", [tensor, *names], name)

    def rename_output(self, old: str, new: str) -> None:
        self.nodes[-1].output[list(self.nodes[-1].output).index(old)] = new

    def _activation(self, kind: str, tensor: str, name: str) -> str:
        if kind == "none":
            return tensor
        if kind == "hard_swish" and self.name_every_kernel:
            return self._node("Mul", [tensor, self._activation("hard_sigmoid", tensor, f"{name}_gate")], name)
        if kind == "swish":
            return self._node("Mul", [tensor, self._node("Sigmoid", [tensor], f"{name}_gate")], name)
        if kind == "hard_sigmoid":
            return self._node("HardSigmoid", [tensor], name, alpha=1.0 / 6.0, beta=0.5)
        if kind == "relu6":
            bounds = [self._weight(f"{name}_{bound}", np.array(bound, np.float32)) for bound in (0, 6)]
            return self._node("Clip", [tensor, *bounds], name)
        return self._node({"relu": "Relu", "hard_swish": "HardSwish", "sigmoid": "Sigmoid"}[kind], [tensor], name)

    def _clipped(self, tensor: str, clip: NDArray[np.float32], bits: int, name: str) -> str:
        """Round to 2^bits values in 0..clip."""
        step = clip / (2**bits - 1)
        bounds = [self._weight(f"{name}_{end}", np.array(value, np.float32)) for end, value in (("0", 0), ("1", clip))]
        tensor = self._node("Clip", [tensor, *bounds], f"{name}_clip")
        steps = [
            self._weight(f"{name}_{end}", np.array(v, np.float32)) for end, v in (("per", 1 / step), ("step", step))
        ]
        tensor = self._node("Round", [self._node("Mul", [tensor, steps[0]], f"{name}_scaled")], f"{name}_round")
        return self._node("Mul", [tensor, steps[1]], name)

    def _weight(self, name: str, value: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def _node(self, op: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        output = f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))  # type: ignore[arg-type]
        return output


def _conv_shapes(part: str, out: int, inside: int, k: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{part}.weight": (out, inside, k, k)} | ({f"{part}.bias": (out,)} if bias else {})


def _value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    graph: _Graph,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    made = helper.make_graph(graph.nodes, "ofa_kit", inputs, outputs, graph.initializers)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ofa-kit"
    )
    helper.set_model_props(model, dict(metadata))
    return model
