"""Several ONNX models of one input as one model, in which nodes that compute the same stand once."""

from collections.abc import Sequence
from typing import TypeVar

import onnx
from onnx import helper

INPUT = "images"
Named = TypeVar("Named", onnx.TensorProto, onnx.ValueInfoProto)


def joined(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Return a model with the outputs of all in their order; equal nodes on equal inputs are shared.

    Equal are nodes of one operator with the same attributes, the same weights to the bit and inputs that are equal in
    turn: value numbering, from the common input on.
    """
    whole = _Joined()
    outputs = [whole.add(model.graph) for model in models]
    first = models[0]
    graph = helper.make_graph(
        whole.nodes,
        "joined",
        [_named(first.graph.input[0], INPUT)],
        [_named(model.graph.output[0], name) for model, name in zip(models, outputs, strict=True)],
        [_named(tensor, name) for name, tensor in whole.weights.values()],
    )
    return helper.make_model(graph, opset_imports=list(first.opset_import), ir_version=first.ir_version)


class _Joined:
    """Nodes and weights so far, by what they compute."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.outputs: dict[tuple[object, ...], list[str]] = {}
        self.weights: dict[bytes, tuple[str, onnx.TensorProto]] = {}

    def add(self, graph: onnx.GraphProto) -> str:
        """Add what is new of a graph; return the name of its output."""
        names = {"": "", graph.input[0].name: INPUT}
        for tensor in graph.initializer:
            content = _named(tensor, "").SerializeToString()
            names[tensor.name] = self.weights.setdefault(content, (f"weight{len(self.weights)}", tensor))[0]
        for node in graph.node:
            names |= zip(node.output, self._outputs_of(node, [names[name] for name in node.input]), strict=True)
        return names[graph.output[0].name]

    def _outputs_of(self, node: onnx.NodeProto, inputs: list[str]) -> list[str]:
        value = (node.op_type, *sorted(a.SerializeToString() for a in node.attribute), *inputs)
        if value not in self.outputs:
            self.outputs[value] = [f"value{len(self.nodes)}_{place}" for place in range(len(node.output))]
            copy = helper.make_node(node.op_type, inputs, self.outputs[value], name=f"node{len(self.nodes)}")
            copy.attribute.extend(node.attribute)
            self.nodes.append(copy)
        return self.outputs[value]


def _named(proto: Named, name: str) -> Named:
    """Return a copy of an ONNX object under another name."""
    copy = proto.__class__()
    copy.CopyFrom(proto)
    copy.name = name
    return copy
