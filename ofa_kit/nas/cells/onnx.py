"""Networks of cells, and single operations, as ONNX models with batch norm folded into the convolutions."""

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from ofa_kit.nas.cells.network import CellModule, CellNetwork, make_inputs
from ofa_kit.nas.cells.operations import FactorizedReduce, Learned, ReLUConvNorm, Twice, make_operation
from ofa_kit.nas.cells.plan import CellPlace, Layout
from ofa_kit.nas.onnx_graph import OnnxGraph


def network_model(network: CellNetwork, *, batch: int | None = 1) -> onnx.ModelProto:
    """Return images (N, C, S, S) to logits (N, classes); batch None leaves N open."""
    graph, shape = CellGraph(), network.shape
    tensor, stem = "images", []
    for number, part in enumerate(network.stem):
        assert isinstance(part, nn.Sequential)
        tensor = graph.sequence(part, tensor, f"stem{number}")
        stem.append(tensor)
    before, last = stem[0], stem[-1]
    for number, cell in enumerate(network.cells):
        assert isinstance(cell, CellModule)
        before, last = last, graph.cell(cell, before, last, f"cell{number}")
    tensor = graph.relu(last) if shape.activates_end else last
    image = (shape.in_channels, shape.image_size, shape.image_size)
    return graph.classifier(tensor, list(network.classifier.named_parameters()), image, shape.num_classes, batch)


def operation_model(
    name: str, *, channels: int, size: int, stride: int, batch: int = 1, layout: Layout = "darts"
) -> onnx.ModelProto:
    """Return one operation with random weights on (N, C, size, size); its time does not depend on what they hold."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        operation = make_operation(name, channels, stride, layout=layout)
    out = (size + stride - 1) // stride
    return single_model(operation, name, [batch, channels, size, size], [batch, channels, out, out])


def input_model(
    place: CellPlace, number: int, *, in_channels: int, size: int, batch: int = 1, layout: Layout = "darts"
) -> onnx.ModelProto:
    """Return what input `number` of a cell does to (N, in_channels, size, size), with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make_inputs(place, (in_channels, in_channels), layout=layout)[number]
    out = [batch, place.channels, place.in_size, place.in_size]
    return single_model(module, f"input{number}", [batch, in_channels, size, size], out)


def single_model(module: nn.Module, name: str, in_shape: Sequence[int], out_shape: Sequence[int]) -> onnx.ModelProto:
    """Return one module from (N, C, S, S) to (N, C', S', S')."""
    graph = CellGraph()
    if graph.operation(module, "x", name) == "x":
        graph.node("Identity", ["x"], name, output="y")
    else:
        graph.nodes[-1].output[0] = "y"
    return graph.model([("x", TensorProto.FLOAT, in_shape)], [("y", TensorProto.FLOAT, out_shape)])


class CellGraph(OnnxGraph):
    """Cells and operations on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.activated: dict[str, str] = {}

    def cell(self, cell: CellModule, before: str, last: str, name: str) -> str:
        """Append a cell and return its output tensor."""
        states = [
            self.operation(module, tensor, f"{name}/input{number}")
            for number, (module, tensor) in enumerate(zip(cell.inputs, (before, last), strict=True))
        ]
        operations = iter(cell.operations)
        for node, edges in enumerate(cell.cell.nodes, start=2):
            terms = [
                self.operation(next(operations), states[edge.input], f"{name}/node{node}.{number}")
                for number, edge in enumerate(edges)
            ]
            total = terms[0]
            for number, term in enumerate(terms[1:]):
                total = self.node("Add", [total, term], f"{name}/node{node}/add{number}")
            states.append(total)
        return self.node("Concat", [states[node] for node in cell.cell.concat], f"{name}/concat", axis=1)

    def operation(self, module: nn.Module, tensor: str, name: str) -> str:
        """Append an operation and return its output tensor."""
        if isinstance(module, nn.Identity):
            return tensor
        if isinstance(module, nn.Sequential):
            for number, part in enumerate(module):
                tensor = self.operation(part, tensor, f"{name}.{number}")
            return tensor
        if isinstance(module, nn.MaxPool2d):
            return self.node("MaxPool", [tensor], name, **_window(module))
        if isinstance(module, nn.AvgPool2d):
            return self.node("AveragePool", [tensor], name, count_include_pad=0, **_window(module))
        assert isinstance(module, Learned)
        return self.learned(module, self.relu(tensor) if module.activates else tensor, name)

    def learned(self, module: Learned, activated: str, name: str) -> str:
        """Append convolutions for an input that went through ReLU."""
        if isinstance(module, Twice):
            first = self.learned(module.first, activated, f"{name}/first")
            return self.learned(module.second, self.relu(first), f"{name}/second")
        if isinstance(module, FactorizedReduce):
            scale, shift = _folded(module.norm)
            half = module.even.out_channels
            even = self.conv(module.even, activated, f"{name}/even", scale[:half], shift[:half], strides=(2, 2))
            odd = self.conv(module.odd, activated, f"{name}/odd", scale[half:], shift[half:], strides=(2, 2), padding=1)
            return self.node("Concat", [even, self.without_first(odd, name)], f"{name}/concat", axis=1)
        assert isinstance(module, ReLUConvNorm)
        return self.convs(list(module.convs), module.norm, activated, name)

    def sequence(self, modules: nn.Sequential, tensor: str, name: str) -> str:
        """Append ReLU and pairs of convolution and batch norm."""
        waiting: nn.Module | None = None
        for number, module in enumerate(modules):
            if isinstance(module, nn.ReLU):
                tensor = self.relu(tensor)
            elif isinstance(module, nn.Conv2d):
                waiting = module
            else:
                assert isinstance(waiting, nn.Conv2d)
                tensor = self.convs([waiting], module, tensor, f"{name}/{number}")
        return tensor

    def convs(self, convs: Sequence[nn.Module], norm: nn.Module, tensor: str, name: str) -> str:
        for number, conv in enumerate(convs):
            assert isinstance(conv, nn.Conv2d)
            fold = _folded(norm) if number == len(convs) - 1 else (None, None)
            tensor = self.conv(conv, tensor, f"{name}/conv{number}", *fold)
        return tensor

    def conv(
        self,
        conv: nn.Conv2d,
        tensor: str,
        name: str,
        scale: Tensor | None,
        shift: Tensor | None,
        strides: tuple[int, ...] | None = None,
        padding: int | None = None,
    ) -> str:
        weight = conv.weight.detach().double()
        names = [self.weight(f"{name}.weight", weight if scale is None else weight * scale[:, None, None, None])]
        names += [] if shift is None else [self.weight(f"{name}.bias", shift)]
        rows, columns = (int(own) if padding is None else padding for own in conv.padding)
        return self.node(
            "Conv",
            [tensor, *names],
            name,
            kernel_shape=list(conv.kernel_size),
            strides=list(strides or conv.stride),
            dilations=list(conv.dilation),
            group=conv.groups,
            pads=[rows, columns, rows, columns],
        )

    def relu(self, tensor: str) -> str:
        """Append ReLU once for each tensor."""
        if tensor not in self.activated:
            self.activated[tensor] = self.node("Relu", [tensor], f"{tensor}/relu")
        return self.activated[tensor]

    def without_first(self, tensor: str, name: str) -> str:
        """Leave out the first row and column.

        Strides of 2 over an image with a border of zeros read that border first, then the odd pixels.
        """
        starts, axes = self.integers(f"{name}/starts", [1, 1]), self.integers(f"{name}/axes", [2, 3])
        ends = self.integers(f"{name}/ends", [2**31 - 1] * 2)
        return self.node("Slice", [tensor, starts, ends, axes], f"{name}/slice")


def _folded(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return what batch norm multiplies by and adds."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _window(pool: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, Any]:
    k, stride, padding = (int(value) for value in (pool.kernel_size, pool.stride, pool.padding))  # type: ignore[arg-type]
    return {"kernel_shape": [k, k], "strides": [stride, stride], "pads": [padding] * 4}
