"""Latency of a macro arc's network: a sum over its layers of what their parts take, set right by whole networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ofa_kit.errors import TableError
from ofa_kit.nas.cells.measured import errors_left_out, line
from ofa_kit.nas.cells.onnx import single_model
from ofa_kit.nas.cells.operations import FactorizedReduce, batch_norm, pointwise
from ofa_kit.nas.cells.plan import halved
from ofa_kit.nas.enas.macro_arc import OPERATIONS, MacroArc, MacroLayer, write_on_one_line
from ofa_kit.nas.enas.macro_network import MacroNetwork, layer_operation
from ofa_kit.nas.enas.macro_onnx import macro_bytes
from ofa_kit.nas.enas.macro_plan import MacroShape
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter

RANDOM_NETWORKS = 6
SKIP_RATE = 0.4
"""Of the random networks that are measured."""


@dataclass(frozen=True)
class Tensor4:
    """Channels and rows of what a part reads."""

    channels: int
    size: int


@dataclass(frozen=True)
class MacroLatency:
    """Milliseconds of parts, by what they read, and how they add up."""

    reads: tuple[Tensor4, ...]
    """What each layer reads."""
    reductions: tuple[int, ...]
    """Layers after which outputs are halved."""
    operation_ms: Mapping[tuple[Tensor4, str], float]
    join_ms: Mapping[Tensor4, tuple[float, float]]
    """Of a join to which nothing is added, and of each output that is."""
    reduction_ms: Mapping[Tensor4, float]
    """Of each output that is halved."""
    scale: float = 1.0
    fixed_ms: float = 0.0

    def of_arc(self, arc: MacroArc) -> float:
        """Return the predicted milliseconds of an arc's network."""
        total = 0.0
        for number, (layer, read) in enumerate(zip(arc.layers, self.reads, strict=True)):
            total += self.operation_ms[read, layer.operation]
            if number:
                alone, each = self.join_ms[read]
                total += alone + each * len(layer.skips)
            if number in self.reductions:
                total += self.reduction_ms[read] * len(arc.read_after(number))
        return self.fixed_ms + self.scale * total


@dataclass(frozen=True)
class MeasuredMacro:
    """Measured parts of networks of one shape, and how well they predict whole ones."""

    latency: MacroLatency
    mape: float
    """Mean error in percent for networks left out of the fit."""
    networks: int


def measure_macro(times: Times, shape: MacroShape, reporter: Reporter | None = None) -> MeasuredMacro:
    """Time parts and networks of `shape` as far as `times` lacks them; fit `fixed + scale * sum` to the networks."""
    batch = times.backend.profile.batch
    reads = tensors(shape)
    arcs = _measured_arcs(shape.layers)
    places = dict.fromkeys(reads)
    ends = {read: dict.fromkeys((0, max(1, shape.layers - 1))) for read in places}
    models: dict[str, Callable[[], bytes]] = {}
    for read in places:
        for name in ("identity", *OPERATIONS):
            models[_operation_name(name, read)] = _part(_operation(name, read), read, read, batch)
        for added in ends[read]:
            wide = Tensor4((added + 1) * read.channels, read.size)
            models[_join_name(added, read)] = _part(_join(read, wide), wide, read, batch)
    for number in shape.reductions:
        read, after = reads[number], Tensor4(shape.channels_of(number + 1), halved(reads[number].size))
        models[_reduction_name(read)] = _part(_reduction(read, after), read, after, batch)
    models |= {macro_name(shape, arc): macro_maker(shape, arc, batch) for arc in arcs}
    times.measure(models, reporter)

    def part_ms(name: str, read: Tensor4) -> float:
        return max(0.0, times.of(name).latency_ms - times.of(_operation_name("identity", read)).latency_ms)

    joins = {}
    for read, (few, many) in ends.items():
        alone, most = (part_ms(_join_name(added, read), read) for added in (few, many))
        joins[read] = (alone, max(0.0, most - alone) / (many - few))
    plain = MacroLatency(
        reads,
        shape.reductions,
        {(read, name): part_ms(_operation_name(name, read), read) for read in places for name in OPERATIONS},
        joins,
        {reads[number]: part_ms(_reduction_name(reads[number]), reads[number]) for number in shape.reductions},
    )
    sums_ms = np.array([[plain.of_arc(arc)] for arc in arcs])
    whole_ms = np.array([times.of(macro_name(shape, arc)).latency_ms for arc in arcs])
    scale, fixed_ms = (float(value) for value in line(sums_ms, whole_ms))
    if scale <= 0:
        raise TableError(
            f"'{times.path}': networks of slower operations took no longer, so the machine was disturbed; "
            "move the file away and run the command again"
        )
    mape = 100 * float(np.mean(list(errors_left_out(sums_ms, whole_ms))))
    return MeasuredMacro(replace(plain, scale=scale, fixed_ms=fixed_ms), mape, len(arcs))


def tensors(shape: MacroShape) -> tuple[Tensor4, ...]:
    """Return what each layer reads."""
    found = [Tensor4(shape.channels_of(0), shape.image_size)]
    for before, number in pairwise(range(shape.layers)):
        size = found[-1].size
        found.append(Tensor4(shape.channels_of(number), halved(size) if before in shape.reductions else size))
    return tuple(found)


def macro_name(shape: MacroShape, arc: MacroArc) -> str:
    """Return the name under which the time of an arc's network is kept."""
    return f"macro, {shape.channels} channels, {shape.image_size} px, {write_on_one_line(arc)}"


def macro_maker(shape: MacroShape, arc: MacroArc, batch: int) -> Callable[[], bytes]:
    """Return a maker of the network's ONNX model with fresh weights."""

    def make() -> bytes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return macro_bytes(MacroNetwork(arc, shape), batch)

    return make


def _measured_arcs(layers: int) -> list[MacroArc]:
    """Return random arcs, and those of one operation each without skip connections."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RANDOM_NETWORKS):
        names = rng.integers(len(OPERATIONS), size=layers)
        skips = [tuple(np.flatnonzero(rng.random(number) < SKIP_RATE).tolist()) for number in range(layers)]
        drawn.append(MacroArc(tuple(MacroLayer(OPERATIONS[n], each) for n, each in zip(names, skips, strict=True))))
    plain = [MacroArc((MacroLayer(name),) * layers) for name in OPERATIONS]
    return list(dict.fromkeys([*drawn, *plain]))


def _part(make: Callable[[], nn.Module], read: Tensor4, after: Tensor4, batch: int) -> Callable[[], bytes]:
    def model() -> bytes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = make()
        shapes = ([batch, each.channels, each.size, each.size] for each in (read, after))
        return bytes(single_model(module, "part", *shapes).SerializeToString())

    return model


def _operation(name: str, read: Tensor4) -> Callable[[], nn.Module]:
    return lambda: nn.Identity() if name == "identity" else layer_operation(name, read.channels, batch_norm)


def _join(read: Tensor4, wide: Tensor4) -> Callable[[], nn.Module]:
    return lambda: pointwise(wide.channels, read.channels, batch_norm)


def _reduction(read: Tensor4, after: Tensor4) -> Callable[[], nn.Module]:
    return lambda: FactorizedReduce(read.channels, after.channels, batch_norm, activates=False)


def _operation_name(name: str, read: Tensor4) -> str:
    return f"macro {name}, {read.channels} channels, {read.size} px"


def _join_name(added: int, read: Tensor4) -> str:
    return f"macro join of {added} more, {read.channels} channels, {read.size} px"


def _reduction_name(read: Tensor4) -> str:
    return f"macro reduction, {read.channels} channels, {read.size} px"
