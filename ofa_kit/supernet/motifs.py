"""What blocks are made of, read from a traced network: convolutions with batch norm, squeeze-and-excite, sums."""

from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor

from ofa_kit.arch.choices import Activation, Gate
from ofa_kit.supernet.elastic import State
from ofa_kit.supernet.trace import Op, refuse


@dataclass(frozen=True)
class Unit:
    """A convolution, its batch norm and activation; `output` is the last of them."""

    conv: Op
    norm: Op
    activation: Activation
    output: Op

    @property
    def kernel_size(self) -> int:
        return int(self.conv.module.kernel_size[0])

    @property
    def stride(self) -> int:
        return int(self.conv.module.stride[0])

    @property
    def channels(self) -> tuple[int, int]:
        return self.conv.module.in_channels, self.conv.module.out_channels

    @property
    def depthwise(self) -> bool:
        return len({self.conv.module.groups, *self.channels}) == 1 and self.kernel_size > 1

    def state(self, conv: str, norm: str) -> State:
        """Return the tensors under our names; a convolution's bias moves into the batch norm's mean."""
        module, bias = self.norm.module, self.conv.module.bias
        ones = torch.ones_like(module.running_mean)
        return {
            f"{conv}.weight": self.conv.module.weight,
            f"{norm}.weight": ones if module.weight is None else module.weight,
            f"{norm}.bias": torch.zeros_like(ones) if module.bias is None else module.bias,
            f"{norm}.running_mean": module.running_mean - (0 if bias is None else bias),
            f"{norm}.running_var": module.running_var,
        }


@dataclass(frozen=True)
class Squeeze:
    """A squeeze-and-excite: its layer's fields, tensors and output."""

    fields: dict[str, Any]
    state: State
    output: Op


def unit_of(conv: Op) -> Unit:
    """Return a convolution with the batch norm and the activation that follow it."""
    if [op.kind for op in conv.users] != ["batch_norm"]:
        refuse(conv.place, f"batch norm after {conv.describe()}", describe_all(conv.users))
    output, activation = activated(conv.users[0])
    return Unit(conv, conv.users[0], activation, output)


def squeeze_after(x: Op) -> Squeeze | None:
    """Read the squeeze-and-excite that follows, if one does."""
    if sorted(op.kind for op in x.users) != ["global_pool", "mul"]:
        return None
    pool = next(op for op in x.users if op.kind == "global_pool")
    reduce = pooled_user(pool, "the first convolution of squeeze-and-excite")
    value, activation = activated(reduce)
    expand = pooled_user(value, "the second convolution of squeeze-and-excite")
    value, gate = activated(expand, get_args(Gate))
    if gate not in get_args(Gate):
        refuse(expand.place, "sigmoid or hard_sigmoid after it, the gate of squeeze-and-excite", gate)
    scaled = user(value, "mul", "the product of squeeze-and-excite")
    if set(scaled.inputs) != {x, value}:
        refuse(scaled.place, "the product of squeeze-and-excite", "a product of other features")
    weights = {"se_reduce": pixel_weight(reduce), "se_expand": pixel_weight(expand)}
    state = {f"{name}.weight": weight for name, (weight, _) in weights.items()}
    state |= {f"{name}.bias": bias for name, (_, bias) in weights.items()}
    channels = weights["se_reduce"][0].shape[0]
    fields = {"squeeze_channels": channels, "squeeze_activation": activation, "gate": gate}
    return Squeeze(fields, state, scaled)


def refuse_unless_pointwise(unit: Unit) -> None:
    """Raise where a convolution of a block that must be 1x1 is another."""
    if unit.kernel_size > 1 or unit.stride > 1 or unit.conv.module.groups > 1:
        stride = f" with stride {unit.stride}" if unit.stride > 1 else ""
        refuse(unit.conv.place, "a 1x1 convolution without groups and stride", f"{unit.conv.describe()}{stride}")


def only_user(value: Op) -> Op:
    """Return the one reader of a value; refuse where it has several."""
    if len(value.users) != 1:
        refuse(value.place, "one thing that reads its output", describe_all(value.users))
    return value.users[0]


def user(value: Op, kind: str, expected: str) -> Op:
    """Return the one reader of a value, which must be of a kind."""
    if [op.kind for op in value.users] != [kind]:
        other = next((op for op in value.users if op.kind != kind), value)
        refuse(other.place, expected, describe_all(value.users))
    return value.users[0]


def pooled_user(value: Op, expected: str) -> Op:
    """Return the linear layer or convolution that alone reads pooled features."""
    return user(value, "linear" if value.users[0].kind == "linear" else "conv", expected)


def activated(value: Op, known: tuple[str, ...] = get_args(Activation)) -> tuple[Op, Any]:
    """Return the output of the activation that follows and its name; the value itself and 'none' without one."""
    if [op.kind for op in value.users] != ["activation"]:
        return value, "none"
    found = value.users[0]
    if found.activation not in known:
        refuse(found.place, f"one of the activations {', '.join(known)}", found.activation)
    return found, found.activation


def added_to(value: Op) -> tuple[Op, Op | None]:
    """Return the sum that a block ends with and what is added; the value itself and None where there is none."""
    if [op.kind for op in value.users] != ["add"]:
        return value, None
    sum_ = value.users[0]
    return sum_, next(op for op in sum_.inputs if op is not value)


def is_projection(op: Op) -> bool:
    """Whether a 1x1 convolution, after average pooling or not, leads straight to an addition."""
    if op.kind == "avg_pool" and len(op.users) == 1:
        op = op.users[0]
    norms = op.users if op.kind == "conv" else []
    return [n.kind for n in norms] == ["batch_norm"] and [s.kind for s in norms[0].users] == ["add"]


def pixel_weight(op: Op) -> tuple[Tensor, Tensor]:
    """Return weight (C_out, C_in, 1, 1) and bias of a convolution or linear layer that sees one pixel."""
    module = op.module
    if op.kind == "conv" and (module.kernel_size != (1, 1) or module.groups > 1):
        refuse(op.place, "a 1x1 convolution of pooled features", op.describe())
    weight = cast(Tensor, module.weight).reshape(*module.weight.shape[:2], 1, 1)
    return weight, torch.zeros(len(weight)) if module.bias is None else module.bias


def describe_all(ops: list[Op]) -> str:
    """Return the operations in words."""
    return " and ".join(op.describe() for op in ops) or "nothing"
