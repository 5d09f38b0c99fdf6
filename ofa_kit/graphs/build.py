"""Layers to ONNX: one builder for profiling graphs (random weights) and for exported models (trained weights).

Batch norm is already folded into the convolutions' weights and biases.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ofa_kit.arch.layers import Layer

OPSET = 18
IR_VERSION = 10
Weights = Mapping[str, NDArray[np.float32]]
WeightsOf = Callable[[Layer], Weights]


def weight_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Return the folded tensors that a layer needs, by name."""
    if layer.op == "linear":
        return {"weight": (layer.out_channels, layer.in_channels), "bias": (layer.out_channels,)}
    if layer.op == "pooled_conv":
        return {"conv.weight": (layer.out_channels, layer.in_channels, 1, 1)}
    k = layer.kernel_size
    if layer.op == "conv":
        return _conv_shapes("conv", layer.out_channels, layer.in_channels, k)
    hidden = layer.hidden_channels
    shapes = _conv_shapes("expand", hidden, layer.in_channels, 1) if layer.expands else {}
    shapes |= _conv_shapes("depthwise", hidden, 1, k)
    if layer.squeeze_excite:
        shapes |= _conv_shapes("se_reduce", layer.squeeze_channels, hidden, 1)
        shapes |= _conv_shapes("se_expand", hidden, layer.squeeze_channels, 1)
    return shapes | _conv_shapes("project", layer.out_channels, hidden, 1)


def random_weights(layer: Layer) -> Weights:
    """Return weights whose scale keeps activations finite; the same for the same layer."""
    rng = np.random.default_rng(int.from_bytes(layer.key.encode()[-8:], "little"))
    return {
        name: (rng.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))).astype(np.float32)
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

    Blocks read graph inputs shared by shape, and each writes its own output, so nothing is shared or skipped.
    """
    graph = _Graph(name_every_kernel=True)
    inputs: dict[str, onnx.ValueInfoProto] = {}
    outputs = []
    for prefix, layer in blocks.items():
        name, shape = input_of(layer, batch)
        inputs.setdefault(name, _value(name, shape))
        tensor = graph.add_layer(layer, name, random_weights(layer), prefix=prefix)
        outputs.append(_value(tensor, output_shape(layer, batch)))
    return _model(graph, list(inputs.values()), outputs, {})


def input_of(layer: Layer, batch: int) -> tuple[str, tuple[int, ...]]:
    """Return name and shape of the graph input that a lone block reads."""
    if layer.op == "linear":
        return f"in_{layer.in_channels}", (batch, layer.in_channels, 1, 1)
    size = layer.input_size
    return f"in_{layer.in_channels}_{size}", (batch, layer.in_channels, size, size)


def output_shape(layer: Layer, batch: int) -> tuple[int, ...]:
    """Return the shape of a block's output."""
    if layer.op == "linear":
        return (batch, layer.out_channels)
    size = 1 if layer.op == "pooled_conv" else layer.output_size
    return (batch, layer.out_channels, size, size)


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
        if layer.op == "conv":
            return self._activation(act, conv("conv", tensor, **spatial), f"{prefix}/act")
        if layer.op == "pooled_conv":
            pooled = self._node("GlobalAveragePool", [tensor], f"{prefix}/pool")
            return self._activation(act, conv("conv", pooled), f"{prefix}/act")
        if layer.op == "linear":
            flat = self._node("Flatten", [tensor], f"{prefix}/flatten", axis=1)
            names = [self._weight(f"{prefix}/{kind}", weights[kind]) for kind in ("weight", "bias")]
            return self._node("Gemm", [flat, *names], f"{prefix}/gemm", transB=1)
        source = tensor
        if layer.expands:
            tensor = self._activation(act, conv("expand", tensor), f"{prefix}/expand_act")
        tensor = conv("depthwise", tensor, group=layer.hidden_channels, **spatial)
        tensor = self._activation(act, tensor, f"{prefix}/depthwise_act")
        if layer.squeeze_excite:
            pooled = self._node("GlobalAveragePool", [tensor], f"{prefix}/se_pool")
            gate = self._node("Relu", [conv("se_reduce", pooled)], f"{prefix}/se_act")
            gate = self._activation("hard_sigmoid", conv("se_expand", gate), f"{prefix}/se_gate")
            tensor = self._node("Mul", [tensor, gate], f"{prefix}/se_scale")
        tensor = conv("project", tensor)
        return self._node("Add", [tensor, source], f"{prefix}/add") if layer.shortcut else tensor

    def rename_output(self, old: str, new: str) -> None:
        self.nodes[-1].output[list(self.nodes[-1].output).index(old)] = new

    def _activation(self, kind: str, tensor: str, name: str) -> str:
        if kind == "relu":
            return self._node("Relu", [tensor], name)
        if kind == "hard_swish" and self.name_every_kernel:
            return self._node("Mul", [tensor, self._activation("hard_sigmoid", tensor, f"{name}_gate")], name)
        if kind == "hard_swish":
            return self._node("HardSwish", [tensor], name)
        assert kind == "hard_sigmoid", kind
        return self._node("HardSigmoid", [tensor], name, alpha=1.0 / 6.0, beta=0.5)

    def _weight(self, name: str, value: NDArray[np.float32]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _node(self, op: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        output = f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))  # type: ignore[arg-type]
        return output


def _conv_shapes(part: str, out: int, inside: int, k: int) -> dict[str, tuple[int, ...]]:
    return {f"{part}.weight": (out, inside, k, k), f"{part}.bias": (out,)}


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
