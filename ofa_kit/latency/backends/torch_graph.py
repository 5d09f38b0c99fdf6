"""An ONNX graph as a list of PyTorch calls, for the few operators that `ofa_kit.graphs` writes."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ofa_kit.errors import BackendError, some_of

Tensor = Any
Call = Callable[..., Tensor]


class TorchGraph:
    """The model on one device: called with a tensor for each input, it returns one for each output."""

    def __init__(self, model: onnx.ModelProto, *, device: str, half: bool = False, channels_last: bool = False) -> None:
        self._torch = import_module("torch")
        self._device, self._channels_last = device, channels_last
        self._dtype = self._torch.float16 if half else self._torch.float32
        graph = model.graph
        weights = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
        self.inputs = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in graph.input
            if value.name not in weights
        }
        """Shape by name; 0 where the batch size is open."""
        self._slots = {name: slot for slot, name in enumerate(self.inputs)}
        self._start: list[Tensor] = [None] * len(self.inputs)
        self._steps = [self._step(node, weights) for node in graph.node]
        self._outputs = [self._slots[value.name] for value in graph.output]
        self._drop_after_last_use()

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Return the outputs; the inputs have this graph's type and layout, see `tensor`."""
        values = self._start.copy()
        values[: len(inputs)] = inputs
        for call, sources, target, unused in self._steps:
            values[target] = call(*[values[source] for source in sources])
            for slot in unused:
                values[slot] = None
        return [values[slot] for slot in self._outputs]

    def tensor(self, value: np.ndarray[Any, Any]) -> Tensor:
        """Return an array as a tensor of the graph's device, type and layout."""
        # A weight may lie in read-only memory, which PyTorch warns of.
        found = self._torch.from_numpy(np.array(value)).to(self._device, self._dtype)
        if found.dim() == 4 and self._channels_last:
            return found.contiguous(memory_format=self._torch.channels_last)
        return found

    def _step(
        self, node: onnx.NodeProto, weights: Mapping[str, np.ndarray[Any, Any]]
    ) -> tuple[Call, list[int], int, list[int]]:
        """Return a node as (call, slots of its arguments, slot of its result, slots that it is the last to use)."""
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise BackendError(
                f"torch-cuda does not know operator '{node.op_type}' (node '{node.name}'); it runs "
                f"{some_of(sorted(OPERATORS), len(OPERATORS))}; run this model on another backend"
            )
        arguments = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        constants = [weights.get(name) for name in node.input]
        call = OPERATORS[node.op_type](self._torch, node, arguments, constants)
        used = node.input[: 1 if node.op_type in ("Clip", "Slice", "Pad") else None]
        sources = [self._slot(name, weights) for name in used]
        target = self._slots[node.output[0]] = len(self._start)
        self._start.append(None)
        return call, sources, target, []

    def _slot(self, name: str, weights: Mapping[str, np.ndarray[Any, Any]]) -> int:
        if name not in self._slots:
            self._slots[name] = len(self._start)
            self._start.append(self.tensor(weights[name]))
        return self._slots[name]

    def _drop_after_last_use(self) -> None:
        seen = {slot for slot, value in enumerate(self._start) if value is not None} | set(self._outputs)
        for _, sources, target, unused in reversed(self._steps):
            for slot in (*sources, target):
                if slot not in seen:
                    seen.add(slot)
                    unused.append(slot)


def _conv(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    size = tuple(given.get("kernel_shape", constants[1].shape[2:]))
    stride, padding, dilation = _window(node, given, size)
    groups = given.get("group", 1)

    def call(x: Tensor, weight: Tensor, bias: Tensor = None) -> Tensor:
        return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return call


def _max_pool(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    size = tuple(given["kernel_shape"])
    stride, padding, dilation = _window(node, given, size)
    ceil = bool(given.get("ceil_mode", 0))
    return lambda x: torch.nn.functional.max_pool2d(x, size, stride, padding, dilation, ceil)


def _average_pool(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    size = tuple(given["kernel_shape"])
    stride, padding, dilation = _window(node, given, size)
    _require(node, dilation == (1, 1), "dilations")
    ceil, with_padding = bool(given.get("ceil_mode", 0)), bool(given.get("count_include_pad", 0))
    return lambda x: torch.nn.functional.avg_pool2d(x, size, stride, padding, ceil, with_padding)


def _clip(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    _require(node, all(bound is not None for bound in constants[1:]), "bounds that are computed")
    low, high = [float(bound.item()) for bound in constants[1:]]
    return lambda x: torch.clamp(x, low, high)


def _concat(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    axis = given["axis"]
    return lambda *parts: torch.cat(parts, axis)


def _slice(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    bounds = constants[1:4]
    _require(node, len(constants) == 4 and all(bound is not None for bound in bounds), "steps, or bounds computed")
    slices = {int(axis): slice(int(start), int(end)) for start, end, axis in zip(*bounds, strict=True)}
    _require(node, min(slices) >= 0, "negative axes")
    index = tuple(slices.get(axis, slice(None)) for axis in range(max(slices) + 1))
    return lambda x: x[index]


def _pad(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    _require(node, len(constants) == 2 and constants[1] is not None, "values other than 0, or amounts computed")
    _require(node, given.get("mode", b"constant") == b"constant", "mode")
    pads = [int(amount) for amount in constants[1]]
    rank = len(pads) // 2
    around = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[rank + axis])]
    return lambda x: torch.nn.functional.pad(x, around)


def _batch_norm(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    _require(node, not given.get("training_mode", 0), "training_mode")
    epsilon = float(given.get("epsilon", 1e-5))

    def call(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return torch.nn.functional.batch_norm(x, mean, var, scale, shift, eps=epsilon)

    return call


def _hard_sigmoid(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    _require(node, np.allclose([given.get("alpha", 0.2), given.get("beta", 0.5)], [1 / 6, 0.5]), "alpha or beta")
    return _functional("hardsigmoid")(torch, node, given, constants)


def _gemm(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
    _require(node, plain and bool(given.get("transB", 0)), "alpha, beta or transposition")
    call: Call = torch.nn.functional.linear
    return call


def _flatten(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
    axis = given.get("axis", 1)
    _require(node, axis == 1, "axis")
    return lambda x: torch.flatten(x, 1)


def _functional(name: str, *arguments: Any) -> Callable[..., Call]:
    """Return the maker of a call to a function of torch.nn.functional."""

    def make(torch: Any, node: onnx.NodeProto, given: Mapping[str, Any], constants: Sequence[Any]) -> Call:
        function: Call = getattr(torch.nn.functional, name)
        return (lambda x: function(x, *arguments)) if arguments else function

    return make


def _plain(name: str) -> Callable[..., Call]:
    """Return the maker of a call to a function of torch itself."""
    return lambda torch, node, given, constants: getattr(torch, name)


OPERATORS: dict[str, Callable[..., Call]] = {
    "Add": _plain("add"),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _functional("adaptive_avg_pool2d", 1),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _functional("hardswish"),
    "Identity": _plain("clone"),
    "MaxPool": _max_pool,
    "Mul": _plain("mul"),
    "Pad": _pad,
    "Relu": _functional("relu"),
    "Sigmoid": _plain("sigmoid"),
    "Slice": _slice,
}
"""Makers of calls: (torch, node, its attributes, its inputs where they are constants) to a function of tensors."""


def _window(
    node: onnx.NodeProto, given: Mapping[str, Any], size: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return stride, padding and dilation of a node that slides a window."""
    pads = tuple(given.get("pads", (0,) * (2 * len(size))))
    _require(node, pads[: len(size)] == pads[len(size) :], "pads that differ between begin and end")
    _require(node, given.get("auto_pad", b"NOTSET") == b"NOTSET", "auto_pad")
    _require(node, not given.get("storage_order", 0), "storage_order")
    ones = (1,) * len(size)
    return tuple(given.get("strides", ones)), pads[: len(size)], tuple(given.get("dilations", ones))


def _require(node: onnx.NodeProto, supported: bool, what: str) -> None:
    if not supported:
        raise BackendError(f"torch-cuda does not support {what} of operator '{node.op_type}' (node '{node.name}')")
