"""StepGraph: nodes and weights of an ONNX model of a recurrent cell, under construction."""

from collections.abc import Sequence

from ofa_kit.nas.onnx_graph import OnnxGraph

OPERATORS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Identity"}


class StepGraph(OnnxGraph):
    """Nodes and weights of a model that runs `length` tokens a call."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def highway(self, before: str, both: str, function: str, name: str) -> str:
        """Append before + sigmoid(gate) * (f(candidate) - before); `both` holds gate and candidate side by side."""
        gate, candidate = f"{name}/gate", f"{name}/candidate"
        self.add("Split", [both], [gate, candidate], f"{name}/split", axis=-1, num_outputs=2)
        activated = self.node(OPERATORS[function], [candidate], f"{name}/{function}")
        change = self.node("Sub", [activated, before], f"{name}/change")
        share = self.node("Mul", [self.node("Sigmoid", [gate], f"{name}/share"), change], f"{name}/step")
        return self.node("Add", [before, share], name)

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
