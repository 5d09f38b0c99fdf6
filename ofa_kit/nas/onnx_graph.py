"""OnnxGraph: nodes and weights of an ONNX model under construction."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ofa_kit.graphs.build import IR_VERSION, OPSET

Ends = Sequence[tuple[str, int, Sequence[int | str]]]
"""Name, ONNX's element type and shape of inputs or outputs."""


class OnnxGraph:
    """What networks of all kinds are written with."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Add whole numbers."""
        self.initializers.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def weight(self, name: str, value: Tensor) -> str:
        """Add a weight in single precision."""
        array = np.ascontiguousarray(value.detach().float().cpu().numpy())
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, *, output: str = "", **attributes: object) -> str:
        """Append a node of one output and return that output's name."""
        return self.add(op, inputs, [output or f"{name}_out"], name, **attributes)[0]

    def add(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: object
    ) -> Sequence[str]:
        """Append a node."""
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))  # type: ignore[arg-type]
        return outputs

    def model(self, inputs: Ends, outputs: Ends) -> onnx.ModelProto:
        """Return the checked model."""
        sources, targets = ([helper.make_tensor_value_info(*each) for each in ends] for ends in (inputs, outputs))
        graph = helper.make_graph(self.nodes, "ofa_kit", sources, targets, self.initializers)
        opset = [helper.make_opsetid("", OPSET)]
        found = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="ofa-kit")
        onnx.checker.check_model(found, full_check=True)
        return found

    def classifier(
        self,
        tensor: str,
        named: Sequence[tuple[str, Tensor]],
        shape: tuple[int, int, int],
        classes: int,
        batch: int | None,
    ) -> onnx.ModelProto:
        """Append mean over rows and columns and a linear layer; return the model from images to logits.

        `shape` is that of an image (C, H, W); batch None leaves the number of images open.
        """
        tensor = self.node("GlobalAveragePool", [tensor], "pool")
        tensor = self.node("Flatten", [tensor], "flatten", axis=1)
        weights = [self.weight(f"classifier/{name}", parameter) for name, parameter in named]
        self.node("Gemm", [tensor, *weights], "classifier", output="logits", transB=1)
        size = batch if batch is not None else "batch"
        images, logits = [size, *shape], [size, classes]
        return self.model([("images", TensorProto.FLOAT, images)], [("logits", TensorProto.FLOAT, logits)])
