"""StepGraph: nodes and weights of an ONNX model of a recurrent cell, under construction."""

from collections.abc import Sequence

from ofa_kit.nas.onnx_graph import OnnxGraph
from ofa_kit.nas.recurrent.tree import TreeGenotype

COMBINATIONS = {"add": "Add", "multiply": "Mul"}
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
