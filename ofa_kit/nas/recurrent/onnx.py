"""Language models as ONNX: `length` tokens and the state before them to logits and the state after them."""

from collections.abc import Sequence
from functools import singledispatch

import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from ofa_kit.nas.recurrent.cell import GenotypeCell, LstmCell, RecurrentCell
from ofa_kit.nas.recurrent.language_model import LanguageModel
from ofa_kit.nas.recurrent.onnx_graph import StepGraph
from ofa_kit.nas.recurrent.tree_cell import TreeCell

TOKENS, EMBEDDED, LOGITS = "tokens", "embedded", "logits"


def language_model(
    model: LanguageModel, *, length: int = 1, batch: int = 1, from_embedded: bool = False
) -> onnx.ModelProto:
    """Return tokens (length, batch) and states (batch, hidden) to logits (length, batch, words) and the next states.

    `from_embedded` leaves the look-up of the embedding out and starts from (length, batch, hidden) floats: what is
    timed, since timing feeds floats.
    """
    graph, cell = StepGraph(length), model.cell
    table = graph.weight("embedding", model.embedding)
    embedded = EMBEDDED if from_embedded else graph.node("Gather", [table, TOKENS], "embedded_tokens")
    names = state_names(cell)
    outputs, after = emit(cell, graph, embedded, names)
    flat = graph.node("Reshape", [outputs, graph.integers("flat", [length * batch, cell.hidden])], "flat_outputs")
    scores = graph.node("Gemm", [flat, table, graph.weight("bias", model.bias)], "classifier", transB=1)
    graph.node("Reshape", [scores, graph.integers("shape", [length, batch, model.words])], LOGITS, output=LOGITS)
    for name, found in zip(names, after, strict=True):
        graph.node("Identity", [found], f"next_{name}", output=f"next_{name}")
    features = [batch, cell.hidden]
    first = (EMBEDDED, TensorProto.FLOAT, [length, *features])
    if not from_embedded:
        first = (TOKENS, TensorProto.INT64, [length, batch])
    return graph.model(
        [first, *((name, TensorProto.FLOAT, features) for name in names)],
        [
            (LOGITS, TensorProto.FLOAT, [length, batch, model.words]),
            *((f"next_{name}", TensorProto.FLOAT, features) for name in names),
        ],
    )


def state_names(cell: RecurrentCell) -> list[str]:
    """Return the names of a cell's states; the outputs are called `next_` and the same."""
    return ["state", "memory"][: cell.state_tensors]


@singledispatch
def emit(cell: RecurrentCell, graph: StepGraph, embedded: str, states: Sequence[str]) -> tuple[str, list[str]]:
    """Append a cell that reads `embedded` (length, batch, hidden); return its outputs and its next states."""
    raise NotImplementedError(type(cell).__name__)


@emit.register
def _(cell: GenotypeCell, graph: StepGraph, embedded: str, states: Sequence[str]) -> tuple[str, list[str]]:
    (state,) = states
    weights = [graph.weight(f"node{n}.weight", weight) for n, weight in enumerate(cell.node_weights, start=1)]
    state_weight = graph.weight("state_weight", cell.state_weight)
    projected = graph.node("MatMul", [embedded, graph.weight("input_weight", cell.input_weight)], "projected")
    outputs = []
    for row, x in enumerate(graph.rows(projected)):
        name = f"step{row}"
        both = graph.node("Add", [x, graph.node("MatMul", [state, state_weight], f"{name}/from_state")], f"{name}/0")
        nodes = [graph.highway(state, both, cell.genotype.first, f"{name}/node0")]
        for number, ((function, source), weight) in enumerate(zip(cell.genotype.nodes, weights, strict=True), start=1):
            both = graph.node("MatMul", [nodes[source], weight], f"{name}/{number}")
            nodes.append(graph.highway(nodes[source], both, function, f"{name}/node{number}"))
        state = graph.node("Mean", [nodes[node] for node in cell.genotype.concat], f"{name}/mean")
        outputs.append(state)
    return graph.stacked(outputs), [state]


@emit.register
def _(cell: TreeCell, graph: StepGraph, embedded: str, states: Sequence[str]) -> tuple[str, list[str]]:
    state, memory = states
    state_weight = graph.weight("state_weight", cell.state_weight)
    projected = graph.node("MatMul", [embedded, graph.weight("input_weight", cell.input_weight)], "projected")
    outputs = []
    for row, x in enumerate(graph.rows(projected)):
        name = f"step{row}"
        from_state = graph.node("MatMul", [state, state_weight], f"{name}/from_state")
        parts = graph.parts(x, cell.genotype.base), graph.parts(from_state, cell.genotype.base)
        state, memory = graph.tree(cell.genotype, list(zip(*parts, strict=True)), memory, name)
        outputs.append(state)
    return graph.stacked(outputs), [state, memory]


@emit.register
def _(cell: LstmCell, graph: StepGraph, embedded: str, states: Sequence[str]) -> tuple[str, list[str]]:
    def in_onnx_order(tensor: Tensor) -> Tensor:
        """Return gates (4 * hidden, ...) as ONNX has them, for its one direction: take, show, keep, candidate."""
        take, keep, candidate, show = tensor.chunk(4)
        return torch.cat([take, show, keep, candidate])[None]

    bias = in_onnx_order(cell.bias)
    names = [
        graph.weight("lstm.W", in_onnx_order(cell.input_weight.t())),
        graph.weight("lstm.R", in_onnx_order(cell.state_weight.t())),
        graph.weight("lstm.B", torch.cat([bias, torch.zeros_like(bias)], -1)),
    ]
    axis = graph.integers("directions", [0])
    start = [graph.node("Unsqueeze", [state, axis], f"{state}/direction") for state in states]
    found = ["lstm/all", "lstm/last", "lstm/memory"]
    graph.add("LSTM", [embedded, *names, "", *start], found, "lstm", hidden_size=cell.hidden)
    outputs = graph.node("Squeeze", [found[0], graph.integers("lstm/axis", [1])], "outputs")
    return outputs, [graph.node("Squeeze", [last, axis], f"{last}/flat") for last in found[1:]]
