"""StepGraph: nodes and weights of an ONNX model of a recurrent cell, under construction."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

from ofa_kit.graphs.build import IR_VERSION, OPSET
from ofa_kit.nas.recurrent.tree import TreeGenotype

COMBINATIONS = {"add": "Add", "multiply": "Mul"}
OPERATORS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Identity"}


class StepGraph:
    """Nodes and weights of a model that runs `length` tokens a call."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def highway(self, before: str, both: str, function: str, name: str) -> str:
        """Append before + sigmoid(gate) * (f(candidate) - before); `both` holds gate and candidate side by side."""
        gate, candidate = f"{name}/gate", f"{name}/candidate"
        self.add("Split", [both], [gate, candidate], f"{name}/split", axis=-1, num_outputs=2)
        activated = self.node(OPERATORS[function], [candidate], f"{name}/{function}")
        change = self.node("Sub", [activated, before], f"{name}/change")
        share = self.node("Mul", [self.node("Sigmoid", [gate], f"{name}/share"), change], f"{name}/step")
        return self.node("Add", [before, share], name)

    def parts(self, tensor: str, count: int) -> list[str]:
        """Append what takes (batch, count * hidden) apart; return so many (batch, hidden)."""
        if count == 1:
            return [tensor]
        names = [f"{tensor}/{part}" for part in range(count)]
        self.add("Split", [tensor], names, f"{tensor}/parts", axis=-1, num_outputs=count)
        return names

    def tree(self, genotype: TreeGenotype, sides: list[tuple[str, str]], memory: str, name: str) -> tuple[str, str]:
        """Append the nodes of a tree whose leaves join `sides`; return its output and the next memory."""
        found, kept = [""] * len(genotype.nodes), ""
        for number, (combination, function) in enumerate(genotype.nodes):
            left, right = sides[number] if number < genotype.base else (found[n] for n in genotype.read_by(number))
            joined = self.node(COMBINATIONS[combination], [left, right], f"{name}/{number}/{combination}")
            if number == genotype.memory_from:
                kept = joined
            found[number] = self.node(OPERATORS[function], [joined], f"{name}/{number}/{function}")
            if number == genotype.memory_into:
                combination, function = genotype.inject
                both = self.node(COMBINATIONS[combination], [found[number], memory], f"{name}/inject/{combination}")
                found[number] = self.node(OPERATORS[function], [both], f"{name}/inject/{function}")
        return found[-1], kept

    def rows(self, tensor: str) -> list[str]:
        """Append what takes (length, ...) apart; return the rows (...)."""
        names = [tensor]
        if self.length > 1:
            names = [f"{tensor}/{row}" for row in range(self.length)]
            self.add("Split", [tensor], names, f"{tensor}/rows", axis=0, num_outputs=self.length)
        axis = self.integers("row_axis", [0])
        return [self.node("Squeeze", [name, axis], f"{name}/row") for name in names]

    def stacked(self, rows: Sequence[str]) -> str:
        """Append what puts rows (...) on each other; return (length, ...)."""
        axis = self.integers("stack_axis", [0])
        layers = [self.node("Unsqueeze", [row, axis], f"{row}/layer") for row in rows]
        return layers[0] if len(layers) == 1 else self.node("Concat", layers, "outputs", axis=0)

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
        """Append a node of one output and return its name."""
        return self.add(op, inputs, [output or f"{name}_out"], name, **attributes)[0]

    def add(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: object
    ) -> Sequence[str]:
        """Append a node."""
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))  # type: ignore[arg-type]
        return outputs

    def model(
        self, inputs: Sequence[tuple[str, int, list[int]]], outputs: Sequence[tuple[str, int, list[int]]]
    ) -> onnx.ModelProto:
        """Return the checked model."""
        sources, targets = ([helper.make_tensor_value_info(*each) for each in ends] for ends in (inputs, outputs))
        graph = helper.make_graph(self.nodes, "ofa_kit", sources, targets, self.initializers)
        opset = [helper.make_opsetid("", OPSET)]
        found = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="ofa-kit")
        onnx.checker.check_model(found, full_check=True)
        return found
