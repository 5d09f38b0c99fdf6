"""A PyTorch network as a graph of few kinds of operations, read with torch.fx; what evaluation ignores is left out."""

import operator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from ofa_kit.errors import ConvertError

SUPPORTED = (
    "supported are stems of convolutions, then inverted residuals (as in MobileNetV2, MobileNetV3, MnasNet, "
    "EfficientNet) or bottlenecks (as in ResNet50), global average pooling and one or two linear layers"
)
ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hard_swish",
    nn.SiLU: "swish",
    nn.Hardsigmoid: "hard_sigmoid",
    nn.Sigmoid: "sigmoid",
}
ACTIVATION_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.relu6: "relu6", F.hardswish: "hard_swish",
    F.silu: "swish", F.hardsigmoid: "hard_sigmoid", F.sigmoid: "sigmoid", torch.sigmoid: "sigmoid",
    "relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid",
}  # fmt: skip
IDENTITY_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)
IDENTITY_FUNCTIONS = (F.dropout, F.dropout2d, stochastic_depth, "contiguous", "expand_as", "clone")
FLATTENING = (torch.flatten, torch.squeeze, torch.reshape, "flatten", "view", "reshape", "squeeze", "unsqueeze")
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
QUOTIENTS = (operator.truediv, operator.itruediv, torch.div, "div", "div_")
GATED = {"sigmoid": "swish", "hard_sigmoid": "hard_swish", "6 hard_sigmoid": "6 hard_swish"}
"""What x * f(x) is; `6 f` is six times f, as in hand-written relu6(x + 3) before its division by 6."""


@dataclass(eq=False)
class Op:
    """One operation: its kind, its module path (or the node's name) in the model, what it reads and what reads it."""

    kind: str
    """input, conv, linear, batch_norm, activation, global_pool, avg_pool, max_pool, add, mul, plus_3 or output."""
    place: str
    inputs: tuple["Op", ...] = ()
    module: Any = None
    """The module that holds the weights of a conv, linear or batch_norm."""
    activation: str = "none"
    stride: int = 1
    """Of a pooling."""
    pooled: bool = False
    """Whether its output has one pixel a channel."""
    users: list["Op"] = field(default_factory=list)

    def downstream(self) -> list["Op"]:
        """Return this and everything computed from it."""
        reached = [self]
        for op in reached:  # grows while it is read
            reached += [user for user in op.users if user not in reached]
        return reached

    def describe(self) -> str:
        """Return what this is in words for a message."""
        if self.kind != "conv":
            return self.activation if self.kind == "activation" else self.kind.replace("_", " ")
        conv = self.module
        groups = f" in {conv.groups} groups" if conv.groups > 1 else ""
        size = "x".join(str(k) for k in conv.kernel_size)
        return f"a {size} convolution {conv.in_channels}->{conv.out_channels}{groups}"


def refuse(place: str, expected: str, found: str) -> NoReturn:
    """Raise the ConvertError that names the first thing that does not fit."""
    raise ConvertError(f"cannot convert '{place}': expected {expected}, found {found}; {SUPPORTED}")


def trace(model: nn.Module) -> Op:
    """Return the input of the model's graph of operations; a ConvertError where one is of no known kind."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError, fx.proxy.TraceError) as error:
        raise ConvertError(
            f"cannot convert {type(model).__name__}: torch.fx cannot trace its forward: {error}; {SUPPORTED}"
        ) from error
    return _Graph(model).read(graph)


class _Tracer(fx.Tracer):
    """Keeps every module with weights whole, subclasses (batch norm with activation) included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        weighted = isinstance(m, (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm))
        return weighted or super().is_leaf_module(m, module_qualified_name)


class _Graph:
    """Reads fx nodes in order; a node that is a size instead of a tensor has no operation."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.ops: dict[fx.Node, Op] = {}

    def read(self, graph: fx.Graph) -> Op:
        for node in graph.nodes:
            op = self._op(node)
            if op is not None:
                self.ops[node] = op
        inputs = [op for op in self.ops.values() if op.kind == "input"]
        if len(inputs) != 1:
            refuse(type(self.model).__name__, "one input tensor", f"{len(inputs)}")
        output = next(op for op in self.ops.values() if op.kind == "output")
        _tell_users(output)
        return inputs[0]

    def _op(self, node: fx.Node) -> Op | None:
        place = _place(node)
        if node.op == "placeholder":
            return None if node.args else Op("input", place)
        if node.op == "get_attr":
            refuse(place, "weights inside convolutions, batch norms and linear layers", "a tensor used by itself")
        sources = tuple(self.ops[n] for n in node.all_input_nodes if n in self.ops)
        is_size = node.target in ("size", "dim") or (node.target is getattr and node.args[1] in ("shape", "ndim"))
        if not sources or is_size:
            return None
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                refuse(place, "one output tensor", str(node.args[0]))
            return Op("output", place, sources)
        if node.op == "call_module":
            return self._module(self.model.get_submodule(str(node.target)), sources[0], place)
        return self._function(node, sources, place)

    def _module(self, module: nn.Module, x: Op, place: str) -> Op:
        if isinstance(module, nn.Sequential):  # an activation of a batch norm may be one
            for child in module:
                x = self._module(child, x, place)
            return x
        if isinstance(module, IDENTITY_MODULES):
            return x
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return self._batch_norm(module, x, place)
        if isinstance(module, nn.Conv2d):
            return Op("conv", place, (x,), _plain_conv(module, place), pooled=x.pooled)
        if isinstance(module, nn.Linear):
            return Op("linear", place, (x,), module, pooled=x.pooled)
        if isinstance(module, nn.Flatten):
            return _flattened(x, place)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return _global_pool(module.output_size, x, place)
        if isinstance(module, nn.MaxPool2d):
            return _max_pool(module, x, place)
        if isinstance(module, nn.AvgPool2d):
            return _avg_pool(module, x, place)
        if isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0, 6):
            return _activation("relu6", x, place)
        for kind, activation in ACTIVATION_MODULES.items():
            if isinstance(module, kind):
                return _activation(activation, x, place)
        return refuse(place, "a layer of a convolutional network", type(module).__name__)

    def _batch_norm(self, module: Any, x: Op, place: str) -> Op:
        if module.running_mean is None:
            refuse(place, "batch norm with running statistics", "batch norm without")
        norm = Op("batch_norm", place, (x,), module)
        activation = getattr(module, "act", None)
        return self._module(activation, norm, f"{place}.act") if isinstance(activation, nn.Module) else norm

    def _function(self, node: fx.Node, sources: tuple[Op, ...], place: str) -> Op:
        target, x = node.target, sources[0]
        if target in IDENTITY_FUNCTIONS:
            return x
        if target in FLATTENING:
            return _flattened(x, place)
        if target in ACTIVATION_FUNCTIONS:
            return _activation(ACTIVATION_FUNCTIONS[target], x, place)
        if target is F.adaptive_avg_pool2d:
            return _global_pool(_argument(node, 1, "output_size"), x, place)
        if target in (torch.mean, "mean") and _is_over_pixels(_argument(node, 1, "dim")):
            return Op("global_pool", place, (x,), pooled=True)
        numbers = [a for a in node.args if isinstance(a, int | float)]
        if target in ADDITIONS and not node.kwargs:
            if len(node.args) == 2 and len(sources) == 2:
                return Op("add", place, sources, pooled=x.pooled)
            if numbers == [3]:
                return Op("plus_3", place, (x,))
        if target in PRODUCTS and len(sources) == 2:
            return _product(*sources, place)
        sixth = (target in QUOTIENTS and numbers == [6]) or (target in PRODUCTS and numbers == [1 / 6])
        if sixth and x.activation.startswith("6 "):
            return Op("activation", place, x.inputs, activation=x.activation.removeprefix("6 "), pooled=x.pooled)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        return refuse(place, "an operation of a convolutional network", f"'{name}'")


def _tell_users(output: Op) -> None:
    """Fill in `users`; what the output does not depend on is no user."""
    reached, todo = {output}, [output]
    while todo:  # ends: every operation comes in once
        op = todo.pop()
        for source in dict.fromkeys(op.inputs):
            source.users.append(op)
            if source not in reached:
                reached.add(source)
                todo.append(source)


def _activation(kind: str, x: Op, place: str) -> Op:
    if kind == "relu6" and x.kind == "plus_3":
        return Op("activation", place, x.inputs, activation="6 hard_sigmoid", pooled=x.pooled)
    return Op("activation", place, (x,), activation=kind, pooled=x.pooled)


def _product(one: Op, other: Op, place: str) -> Op:
    for x, factor in ((one, other), (other, one)):
        if factor.kind == "activation" and factor.inputs == (x,) and factor.activation in GATED:
            return Op("activation", place, (x,), activation=GATED[factor.activation], pooled=x.pooled)
    return Op("mul", place, (one, other))


def _flattened(x: Op, place: str) -> Op:
    return x if x.pooled else refuse(place, "global average pooling before flattening", "a whole feature map")


def _global_pool(output_size: object, x: Op, place: str) -> Op:
    if output_size not in (1, (1, 1), [1, 1]):
        refuse(place, "global average pooling", f"average pooling to {output_size}")
    return Op("global_pool", place, (x,), pooled=True)


def _max_pool(pool: nn.MaxPool2d, x: Op, place: str) -> Op:
    found = [_pair(v) for v in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)]
    if found != [(3, 3), (2, 2), (1, 1), (1, 1)] or pool.ceil_mode:
        refuse(place, "3x3 max pooling with stride 2 and padding 1", str(pool))
    return Op("max_pool", place, (x,), stride=2)


def _avg_pool(pool: nn.AvgPool2d, x: Op, place: str) -> Op:
    kernel, stride = _pair(pool.kernel_size), _pair(pool.stride)
    if kernel != stride or len(set(stride)) > 1 or _pair(pool.padding) != (0, 0) or pool.divisor_override:
        refuse(place, "average pooling of windows that do not overlap", str(pool))
    return Op("avg_pool", place, (x,), stride=stride[0])


def _plain_conv(conv: nn.Conv2d, place: str) -> nn.Conv2d:
    """Return the convolution; refuse what our layers cannot do: dilation, other paddings, forwards of its own."""
    kernel, padding = conv.kernel_size, conv.padding
    if type(conv).forward is not nn.Conv2d.forward:
        refuse(place, "an ordinary convolution", f"{type(conv).__name__} with a forward of its own")
    if max(conv.dilation) > 1:
        refuse(place, "a convolution without dilation", f"dilation {conv.dilation}")
    if len(set(kernel)) > 1 or kernel[0] % 2 == 0 or len(set(conv.stride)) > 1:
        refuse(place, "an odd square kernel and one stride", f"kernel {kernel} with stride {conv.stride}")
    same = padding == "same" and max(conv.stride) == 1
    if not (same or padding == (kernel[0] // 2,) * 2) or conv.padding_mode != "zeros":
        refuse(place, f"padding {kernel[0] // 2} with zeros", f"padding {padding} ({conv.padding_mode})")
    return conv


def _place(node: fx.Node) -> str:
    """Return the module path of a call; for a function the module it stands in and its name."""
    if node.op == "call_module":
        return str(node.target)
    inside = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return f"{inside[-1]}, {node.name}" if inside and inside[-1] else node.name


def _argument(node: fx.Node, position: int, name: str) -> object:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _is_over_pixels(dims: object) -> bool:
    return isinstance(dims, tuple | list) and {d % 4 for d in dims if isinstance(d, int)} == {2, 3} and len(dims) == 2


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
