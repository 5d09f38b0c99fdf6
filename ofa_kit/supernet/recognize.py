"""A traced network as our layers with their weights: stem, blocks and head, recognised by what is connected to what."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ofa_kit.arch.choices import Activation
from ofa_kit.arch.layer import Layer
from ofa_kit.errors import ConvertError
from ofa_kit.supernet.elastic import State
from ofa_kit.supernet.motifs import (
    Unit,
    activated,
    added_to,
    describe_all,
    is_projection,
    only_user,
    pixel_weight,
    refuse_unless_pointwise,
    squeeze_after,
    unit_of,
    user,
)
from ofa_kit.supernet.trace import Op, refuse

BLOCK_START = (
    "a depthwise convolution, or the 1x1 convolution that starts an inverted residual or a bottleneck, or the head"
)


@dataclass(frozen=True)
class Part:
    """One layer of the user's model: where it stands there, and its weights by the names of our static modules."""

    place: str
    layer: Layer
    """Without name and input size."""
    state: State


def recognize(source: Op) -> Iterator[Part]:
    """Yield the parts of the network that reads `source`; a ConvertError names the first place that is none."""
    reader = _Reader(source)
    yield from reader.stem()
    if reader.at_head():
        refuse(reader.value.users[0].place, "an inverted residual or a bottleneck", "the end of the network")
    while not reader.at_head():  # ends: each block moves the reader on towards the output
        yield reader.block()
    yield from reader.head()
    _refuse_two_eps(source)


class _Reader:
    """Walks from the input to the output; `value` is what has been computed so far."""

    def __init__(self, source: Op) -> None:
        self.value = source
        self.channels = 0

    def stem(self) -> Iterator[Part]:
        """Yield the convolutions before the first block, and the pooling after them."""
        first = only_user(self.value)
        if first.kind != "conv" or first.module.groups > 1 or first.module.kernel_size == (1, 1):
            refuse(first.place, "a convolution larger than 1x1 as the stem", first.describe())
        yield self._conv(unit_of(first))
        while [op.kind for op in self.value.users] == ["conv"]:  # ends: each convolution is nearer to the output
            unit = unit_of(self.value.users[0])
            if unit.conv.module.groups > 1 or unit.kernel_size == 1:
                return
            yield self._conv(unit)
        pool = self.value.users[0]
        if pool.kind == "max_pool" and len(self.value.users) == 1:
            self.value = pool
            yield Part(pool.place, _layer("max_pool", self.channels, 0, self.channels, 3, 2, "none"), {})

    def block(self) -> Part:
        """Read an inverted residual or a bottleneck, its shortcut included."""
        source = self.value
        first = unit_of(self._branch(source))
        if first.depthwise:
            return self._inverted_residual(source, None, first)
        if first.kernel_size > 1 or first.conv.module.groups > 1:
            refuse(first.conv.place, BLOCK_START, first.conv.describe())
        second = unit_of(user(first.output, "conv", "the second convolution of a block"))
        if second.depthwise:
            return self._inverted_residual(source, first, second)
        return self._bottleneck(source, first, second)

    def at_head(self) -> bool:
        """Whether global pooling comes next, or a 1x1 convolution and then global pooling."""
        following = self.value.users[0]
        if len(self.value.users) > 1 or following.kind != "conv" or following.module.kernel_size != (1, 1):
            return following.kind == "global_pool" and len(self.value.users) == 1
        return [op.kind for op in unit_of(following).output.users] == ["global_pool"]

    def head(self) -> Iterator[Part]:
        """Yield what follows the blocks, up to the classifier."""
        if self.value.users[0].kind == "conv":
            yield self._conv(unit_of(self.value.users[0]))
        value, pooled = self.value.users[0], []
        while (op := only_user(value)).kind in ("conv", "linear"):
            value, activation = activated(op)
            pooled.append((op, activation))
        if op.kind != "output":
            refuse(op.place, "a linear layer or the end of the network after global pooling", op.describe())
        if not pooled or pooled[-1][1] != "none":
            refuse(value.place, "a linear layer without activation as the last", value.describe())
        for op, activation in pooled[:-1]:
            weight, bias = pixel_weight(op)
            layer = _layer("pooled_conv", weight.shape[1], 0, weight.shape[0], 1, 1, activation)
            yield Part(op.place, replace(layer, bias=True), {"conv.weight": weight, "conv.bias": bias})
        weight, bias = pixel_weight(op := pooled[-1][0])
        layer = _layer("linear", weight.shape[1], 0, weight.shape[0], 1, 1, "none")
        yield Part(op.place, layer, {"weight": weight.flatten(1), "bias": bias})

    def _conv(self, unit: Unit) -> Part:
        inside, outside = unit.channels
        layer = _layer("conv", inside, 0, outside, unit.kernel_size, unit.stride, unit.activation)
        self.value, self.channels = unit.output, outside
        return Part(unit.conv.place, replace(layer, bn_eps=unit.norm.module.eps), unit.state("conv", "bn"))

    def _inverted_residual(self, source: Op, expand: Unit | None, depthwise: Unit) -> Part:
        squeeze = squeeze_after(depthwise.output)
        output = depthwise.output if squeeze is None else squeeze.output
        project = unit_of(user(output, "conv", "the 1x1 convolution that projects"))
        start = depthwise if expand is None else expand
        for unit in filter(None, (expand, project)):
            refuse_unless_pointwise(unit)
        for unit, expected in ((depthwise, start.activation), (project, "none")):
            if unit.activation != expected:
                refuse(unit.conv.place, f"activation {expected} after it", unit.activation)
        self.value, added = added_to(project.output)
        if added is not None and added is not source:
            refuse(self.value.place, "the block's own input added to its output", added.describe())
        inside, hidden, outside = start.channels[0], depthwise.channels[1], project.channels[1]
        if expand is not None and inside == hidden:
            refuse(expand.conv.place, "an expansion to other than the input's channels, or none", f"{inside}->{hidden}")
        state = {} if expand is None else expand.state("expand", "expand_bn")
        state |= depthwise.state("depthwise", "depthwise_bn") | project.state("project", "project_bn")
        kernel, stride = depthwise.kernel_size, depthwise.stride
        layer = replace(
            _layer("inverted_residual", inside, hidden, outside, kernel, stride, start.activation),
            shortcut=added is not None,
            bn_eps=project.norm.module.eps,
            **({} if squeeze is None else squeeze.fields),
        )
        return Part(start.conv.place, layer, state | ({} if squeeze is None else squeeze.state))

    def _bottleneck(self, source: Op, reduce: Unit, middle: Unit) -> Part:
        if middle.conv.module.groups > 1:
            refuse(middle.conv.place, "a depthwise convolution or one without groups", middle.conv.describe())
        project = unit_of(user(middle.output, "conv", "the 1x1 convolution that ends a bottleneck"))
        for unit in (reduce, project):
            refuse_unless_pointwise(unit)
        sum_, added = added_to(project.output)
        if added is None:
            refuse(project.output.users[0].place, "the addition that ends a bottleneck", describe_all(sum_.users))
        if project.activation != "none":
            refuse(project.output.place, "no activation before the bottleneck's addition", project.activation)
        self.value, activation = activated(sum_)
        if not reduce.activation == middle.activation == activation:
            refuse(self.value.place, f"the bottleneck's activation {reduce.activation} everywhere", activation)
        (inside, hidden), outside = reduce.channels, project.channels[1]
        state = reduce.state("reduce", "reduce_bn") | middle.state("middle", "middle_bn")
        state |= project.state("project", "project_bn")
        layer = replace(
            _layer("bottleneck", inside, hidden, outside, middle.kernel_size, middle.stride, reduce.activation),
            shortcut=True,
            bn_eps=project.norm.module.eps,
        )
        if added is not source:
            shortcut, downsample = self._shortcut(added, source, middle.stride)
            layer = replace(layer, projected=True, downsample=downsample)
            state |= shortcut.state("shortcut", "shortcut_bn")
        return Part(reduce.conv.place, layer, state)

    def _shortcut(self, added: Op, source: Op, stride: int) -> tuple[Unit, Any]:
        """Read the projection that ends in `added`, backwards."""
        conv = added.inputs[0] if added.kind == "batch_norm" else added
        if conv.kind != "conv":
            refuse(added.place, "the block's input or its projection by a 1x1 convolution", added.describe())
        unit, before = unit_of(conv), conv.inputs[0]
        pooled = before.kind == "avg_pool"
        if (before.inputs[0] if pooled else before) is not source or unit.kernel_size > 1:
            refuse(conv.place, "a 1x1 convolution of the block's input", conv.describe())
        strides = (before.stride if pooled else 1, unit.stride)
        if strides != ((stride, 1) if pooled else (1, stride)):
            refuse(conv.place, f"a shortcut with the block's stride {stride}", f"strides {strides}")
        return unit, "avgpool_conv" if pooled else "conv"

    def _branch(self, source: Op) -> Op:
        """Return the convolution that starts a block's main branch."""
        branches = [op for op in source.users if op.kind != "add" and not is_projection(op)]
        if len(branches) != 1 or branches[0].kind != "conv":
            other = next((op for op in branches if op.kind != "conv"), branches[-1] if branches else source)
            refuse(other.place, BLOCK_START, describe_all(source.users))
        return branches[0]


def _refuse_two_eps(source: Op) -> None:
    """Raise a ConvertError where two batch norms have different eps."""
    norms = [op for op in source.downstream() if op.kind == "batch_norm"]
    other = next((norm for norm in norms if norm.module.eps != norms[0].module.eps), None)
    if other is not None:
        raise ConvertError(
            f"cannot convert '{other.place}': its batch norm has eps {other.module.eps}, '{norms[0].place}' has "
            f"{norms[0].module.eps}, and a supernet has one eps; set them equal and fine-tune the model"
        )


def _layer(op: Any, inside: int, hidden: int, outside: int, kernel: int, stride: int, activation: Activation) -> Layer:
    return Layer("", op, inside, hidden, outside, kernel, stride, 0, activation)
