"""The lowering: the one place that turns an architecture into a flat list of static layers.

MACs, parameters, latency keys, ONNX graphs and extracted modules all come from this list. A network is a sequence of
slots; each knows which genes decide its layer, so costs of whole populations are table look-ups (features.py).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ofa_kit.arch.choices import ConvSpace, Operation, StageSpace
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layer import Layer, Op, make_divisible
from ofa_kit.arch.space import SearchSpace

Place = tuple[str, int, int]
"""Kind, stage and block of a gene."""
Values = Mapping[Place, Any]
RESOLUTION: Place = ("resolution", 0, 0)


@dataclass(frozen=True)
class Slot:
    """A place for one layer: which genes decide it, and how."""

    name: str
    places: tuple[Place, ...]
    """The genes of the space that the layer depends on, the resolution always among them."""
    layer: Callable[[Values], Layer]
    depth_of: tuple[int, int] | None = None
    """(stage, block): the slot is empty when the stage is not deeper than this block."""
    present: Place | None = None
    """A gene that leaves the slot empty by 0."""


@lru_cache(maxsize=4096)
def layers(space: SearchSpace, arch: ArchConfig) -> tuple[Layer, ...]:
    """Return the layers of one architecture, input first."""
    values = {
        place: space.genes[position].value_in(arch)
        for place, position in space.positions.items()
        if not space.genes[position].skipped_in(arch)
    }
    return tuple(slot.layer(values) for slot in slots(space) if _filled(slot, arch, values))


def macs(space: SearchSpace, arch: ArchConfig) -> int:
    """Return the multiply-adds for one image."""
    return sum(layer.macs for layer in layers(space, arch))


def params(space: SearchSpace, arch: ArchConfig) -> int:
    """Return the number of parameters of the extracted subnet."""
    return sum(layer.params for layer in layers(space, arch))


@lru_cache(maxsize=64)
def slots(space: SearchSpace) -> tuple[Slot, ...]:
    """Return the slots of a space, input first."""
    return tuple(_Builder(space).all())


def _filled(slot: Slot, arch: ArchConfig, values: Values) -> bool:
    if slot.present is not None and not values[slot.present]:
        return False
    return slot.depth_of is None or slot.depth_of[1] < arch.stages[slot.depth_of[0]].depth


class _Width:
    """Channels at a point of the network: fixed, or decided by a gene."""

    def __init__(self, choices: tuple[int, ...], place: Place | None = None) -> None:
        self.choices, self.place = choices, place

    @property
    def places(self) -> tuple[Place, ...]:
        return () if self.place is None else (self.place,)

    def of(self, values: Values) -> int:
        return int(self.choices[0] if self.place is None else values[self.place])


class _Builder:
    """Walks a space from input to output; `width` is what it has reached, `strides` are those it has passed."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.width = _Width((space.in_channels,))
        self.strides: list[int] = []

    def all(self) -> Iterator[Slot]:
        yield from self._stem()
        if self.space.first_width:
            yield self._first()
        for index, stage in enumerate(self.space.stages):
            yield from self._stage(index, stage)
        yield from self._head()

    def _size(self) -> Callable[[Values], int]:
        """Return the function from choices to the feature map's size at this point."""
        strides = tuple(self.strides)

        def size(values: Values) -> int:
            found = int(values[RESOLUTION])
            for stride in strides:
                found = -(-found // stride)
            return found

        return size

    def _stem(self) -> Iterator[Slot]:
        names = ["stem"] if len(self.space.stem) == 1 else [f"stem{i}" for i in range(len(self.space.stem))]
        position = 0
        for name, conv in zip(names, self.space.stem, strict=True):
            place: Place = ("stem", 0, position)
            position += conv.residual or conv.elastic
            yield self._stem_conv(name, conv, place)
        if self.space.stem_max_pool:
            width, size = self.width, self._size()

            def pool(values: Values) -> Layer:
                channels = width.of(values)
                return Layer("stem_pool", "max_pool", channels, 0, channels, 3, 2, size(values), "none")

            yield Slot("stem_pool", (RESOLUTION, *width.places), pool)
            self.strides.append(2)

    def _stem_conv(self, name: str, conv: ConvSpace, place: Place) -> Slot:
        before, size, eps = self.width, self._size(), self.space.bn_eps
        after = before if conv.residual else _Width(conv.widths, place if conv.elastic else None)

        def layer(values: Values) -> Layer:
            inside, outside = before.of(values), after.of(values)
            return Layer(
                name, "conv", inside, 0, outside, conv.kernel_size, conv.stride, size(values), conv.activation,
                shortcut=conv.residual, bn_eps=eps,
            )  # fmt: skip

        self.width = after
        self.strides.append(conv.stride)
        places = dict.fromkeys((RESOLUTION, *before.places, *after.places))
        return Slot(name, tuple(places), layer, present=place if conv.residual else None)

    def _first(self) -> Slot:
        before, size, space = self.width, self._size(), self.space

        def layer(values: Values) -> Layer:
            inside, outside = before.of(values), space.first_width
            return Layer(
                "first", "inverted_residual", inside, inside, outside, 3, 1, size(values), space.first_activation,
                shortcut=inside == outside, bn_eps=space.bn_eps,
            )  # fmt: skip

        self.width = _Width((space.first_width,))
        return Slot("first", (RESOLUTION, *before.places), layer)

    def _stage(self, index: int, stage: StageSpace) -> Iterator[Slot]:
        elastic = len(stage.widths) > 1
        after = _Width(stage.widths, ("width", index, 0) if elastic else None)
        for block in range(stage.max_depth):
            make = self._choice_block if stage.block == "choice" else self._block
            yield make(index, block, stage, after)
            self.width = after
            if block == 0:
                self.strides.append(stage.stride)

    def _block(self, index: int, block: int, stage: StageSpace, after: _Width) -> Slot:
        before, size, space = self.width, self._size(), self.space
        gene_block = 0 if stage.shared else block
        kernel: Place = ("kernel_size", index, gene_block)
        expand: Place = ("expand_ratio", index, gene_block)
        stride = stage.stride if block == 0 else 1
        may_skip = stride == 1 and before.choices == after.choices
        projects = stage.block == "bottleneck" or stage.projected
        bits: tuple[Place, ...] = ()
        if stage.weight_bits:
            bits = (("weight_bits", index, gene_block), ("activation_bits", index, gene_block))
        op: Op = "bottleneck" if stage.block == "bottleneck" else "inverted_residual"

        def layer(values: Values) -> Layer:
            inside, outside = before.of(values), after.of(values)
            base = outside if stage.block == "bottleneck" else inside
            hidden = make_divisible(round(base * values[expand]), space.channel_divisor)
            same = stride == 1 and inside == outside
            return Layer(
                name=f"stage{index}_block{block}",
                op=op,
                in_channels=inside,
                hidden_channels=hidden,
                out_channels=outside,
                kernel_size=values[kernel],
                stride=stride,
                input_size=size(values),
                activation=stage.activation,
                squeeze_channels=_squeeze_channels(stage, block, hidden),
                shortcut=block > 0 or projects or (may_skip and inside == outside),
                projected=block == 0 and projects and (stage.block == "bottleneck" or not same),
                downsample=stage.downsample,
                squeeze_activation=stage.squeeze_activation,
                gate=stage.gate,
                bn_eps=space.bn_eps,
                weight_bits=values[bits[0]] if bits else 0,
                activation_bits=values[bits[1]] if bits else 0,
            )

        places = dict.fromkeys((RESOLUTION, *before.places, *after.places, kernel, expand, *bits))
        return Slot(f"stage{index}_block{block}", tuple(places), layer, depth_of=(index, block))

    def _choice_block(self, index: int, block: int, stage: StageSpace, after: _Width) -> Slot:
        before, size, space = self.width, self._size(), self.space
        gene_block = 0 if stage.shared else block
        chosen: Place = ("operation", index, gene_block)
        expand: Place = ("expand_ratio", index, gene_block)
        stride = stage.stride if block == 0 else 1

        def layer(values: Values) -> Layer:
            operation, outside = Operation(values[chosen]), after.of(values)
            return Layer(
                name=f"stage{index}_block{block}",
                op="xception" if operation == Operation.XCEPTION else "shuffle",
                in_channels=before.of(values),
                hidden_channels=make_divisible(round(outside // 2 * values[expand]), space.channel_divisor),
                out_channels=outside,
                kernel_size=operation.kernel_size,
                stride=stride,
                input_size=size(values),
                activation=stage.activation,
                bn_eps=space.bn_eps,
            )

        places = dict.fromkeys((RESOLUTION, *before.places, *after.places, chosen, expand))
        return Slot(f"stage{index}_block{block}", tuple(places), layer, depth_of=(index, block))

    def _head(self) -> Iterator[Slot]:
        space, head = self.space, self.space.head
        pooled = False
        if head.conv_width or head.conv_expand_ratio:
            yield self._head_conv()
        if head.feature_widths:
            before, size = self.width, self._size()
            after = _Width(head.feature_widths, ("head", 0, 0) if head.elastic else None)

            def feature(values: Values) -> Layer:
                return Layer(
                    "feature_mix", "pooled_conv", before.of(values), 0, after.of(values), 1, 1, size(values),
                    head.activation, bias=head.feature_bias,
                )  # fmt: skip

            yield Slot("feature_mix", (RESOLUTION, *before.places, *after.places), feature)
            self.width, pooled = after, True
        width, last_size = self.width, self._size()

        def classifier(values: Values) -> Layer:
            size = 1 if pooled else last_size(values)
            return Layer(
                "classifier", "linear", width.of(values), 0, space.num_classes, 1, 1, size, "none",
                classifier_bias=head.classifier_bias,
            )  # fmt: skip

        yield Slot("classifier", (RESOLUTION, *width.places), classifier)

    def _head_conv(self) -> Slot:
        before, size, head, eps = self.width, self._size(), self.space.head, self.space.bn_eps

        def out(channels: int) -> int:
            return head.conv_width or make_divisible(channels * head.conv_expand_ratio, self.space.channel_divisor)

        def layer(values: Values) -> Layer:
            inside = before.of(values)
            return Layer(
                "final_expand", "conv", inside, 0, out(inside), 1, 1, size(values), head.activation, bn_eps=eps
            )

        if head.conv_width:
            self.width = _Width((head.conv_width,))
        else:
            self.width = _Multiple(before, out)
        return Slot("final_expand", (RESOLUTION, *before.places), layer)


class _Multiple(_Width):
    """Channels computed from those of another point."""

    def __init__(self, base: _Width, rule: Callable[[int], int]) -> None:
        super().__init__(tuple(rule(channels) for channels in base.choices), base.place)
        self.rule = rule

    def of(self, values: Values) -> int:
        return self.choices[0] if self.place is None else self.rule(int(values[self.place]))


def _squeeze_channels(stage: StageSpace, block: int, hidden: int) -> int:
    if stage.blocks:
        return stage.blocks[block].squeeze_channels
    return make_divisible(hidden // 4) if stage.squeeze_excite else 0
