"""The latency of what a search may derive, measured: single operations on the device, set right by whole networks.

An operation's time is that of its own session less an identity's on the same tensor; where cells join different
numbers of nodes, what reads them is timed so for each number. Whole networks take another time than their parts
together, mostly in proportion: random genotypes and those of one operation alone are timed too, and `latency = fixed
+ scale * sum` is fitted to them, with a scale of its own for what reads joined nodes (in a network it adds far less
than alone). How far off it is for a network left out stands beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ofa_kit.errors import TableError
from ofa_kit.nas.cells.genotype import NONE, SKIP, Genotype, all_edges
from ofa_kit.nas.cells.latency import CellLatency, InputPlace, OperationPlace, input_places, operation_place
from ofa_kit.nas.cells.network import CellNetwork, CellNetworkShape
from ofa_kit.nas.cells.onnx import input_model, network_model, operation_model
from ofa_kit.nas.cells.plan import Layout
from ofa_kit.nas.cells.sampling import random_genotype, uniform_genotype
from ofa_kit.nas.cells.text import write_genotype
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter

RANDOM_NETWORKS = 6


@dataclass(frozen=True)
class MeasuredLatency:
    """The times of operations in a network of this shape, and how well they predict whole networks."""

    latency: CellLatency
    scale: float
    """What operations take in a network for each ms that they take alone."""
    mape: float
    """Mean error in percent for networks left out of the fit."""
    networks: int


def measure_latency(
    times: Times,
    shape: CellNetworkShape,
    nodes: int,
    operations: Sequence[str],
    reporter: Reporter | None = None,
    *,
    joined: Literal["all", "unused"] = "all",
) -> MeasuredLatency:
    """Time operations and networks of `shape` as far as `times` lacks them, and fit.

    `joined` says which nodes the cells to predict join.
    """
    batch = times.backend.profile.batch
    places = dict.fromkeys(_places(shape, nodes, operations))
    inputs = dict.fromkeys(found for _, _, found in input_places(shape.places, nodes)) if joined == "unused" else {}
    places |= dict.fromkeys(found.identity for found in inputs)
    genotypes = _genotypes(nodes, operations, joined)
    models: dict[str, Callable[[], bytes]] = {place.key: _operation(place, batch, shape.layout) for place in places}
    models |= {found.key: _input(found, batch, shape.layout) for found in inputs}
    models |= {network_name(shape, genotype): network_bytes(shape, genotype, batch) for genotype in genotypes}
    times.measure(models, reporter)

    def time_ms(place: OperationPlace) -> float:
        if place.is_free:
            return 0.0
        return max(0.0, times.of(place.key).latency_ms - times.of(place.identity.key).latency_ms)

    def input_ms(found: InputPlace) -> float:
        return max(0.0, times.of(found.key).latency_ms - times.of(found.identity.key).latency_ms)

    plain = CellLatency.of_places(shape.places, nodes, operations, time_ms, input_ms=input_ms if inputs else None)
    sums_ms = np.array([(plain.operations_ms(genotype), plain.joins_ms(genotype)) for genotype in genotypes])
    whole_ms = np.array([times.of(network_name(shape, genotype)).latency_ms for genotype in genotypes])
    scale, join_scale, fixed_ms = (float(value) for value in line(sums_ms, whole_ms))
    if scale <= 0:
        raise TableError(
            f"'{times.path}': networks of slower operations took no longer, so the machine was disturbed; "
            "move the file away and run the command again"
        )
    errors = list(errors_left_out(sums_ms, whole_ms))
    return MeasuredLatency(
        plain.scaled(scale, fixed_ms, join_scale), scale, 100 * float(np.mean(errors)), len(genotypes)
    )


def network_name(shape: CellNetworkShape, genotype: Genotype) -> str:
    """Return the name under which the time of a genotype's network is kept."""
    layout = "" if shape.layout == "darts" else f"{shape.layout}, "
    size = f"{shape.cells} cells, {shape.channels} channels, {shape.image_size} px"
    return f"{layout}{size}, {write_genotype(genotype)}"


def network_bytes(shape: CellNetworkShape, genotype: Genotype, batch: int) -> Callable[[], bytes]:
    """Return a maker of the network's ONNX model with fresh weights."""

    def make() -> bytes:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = CellNetwork(genotype, shape).eval()
        return bytes(network_model(network, batch=batch).SerializeToString())

    return make


def _operation(place: OperationPlace, batch: int, layout: Layout) -> Callable[[], bytes]:
    def make() -> bytes:
        model = operation_model(
            place.operation, channels=place.channels, size=place.size, stride=place.stride, batch=batch, layout=layout
        )
        return bytes(model.SerializeToString())

    return make


def _input(found: InputPlace, batch: int, layout: Layout) -> Callable[[], bytes]:
    def make() -> bytes:
        model = input_model(
            found.place, found.number, in_channels=found.in_channels, size=found.size, batch=batch, layout=layout
        )
        return bytes(model.SerializeToString())

    return make


def _places(shape: CellNetworkShape, nodes: int, operations: Sequence[str]) -> Iterator[OperationPlace]:
    """Yield the places that cost time, and the identity of each tensor that they read."""
    for place in shape.places:
        for _, source in all_edges(nodes):
            yield OperationPlace(SKIP, place.channels, place.size(source), 1)
            for operation in operations:
                found = operation_place(operation, place, source)
                if operation != NONE and not found.is_free:
                    yield found


def _genotypes(nodes: int, operations: Sequence[str], joined: Literal["all", "unused"]) -> list[Genotype]:
    generator = torch.Generator().manual_seed(0)
    drawn = [random_genotype(nodes, operations, generator) for _ in range(RANDOM_NETWORKS)]
    if joined == "unused":
        drawn = [genotype.joining_unused() for genotype in drawn]
    known = [name for name in operations if name != NONE]
    return list(dict.fromkeys([*drawn, *(uniform_genotype(nodes, name) for name in known)]))


def line(sums_ms: np.ndarray, whole_ms: np.ndarray) -> np.ndarray:
    """Return slopes of sums (networks, K), then the offset, with the least relative squares.

    The slope of sums after the first is not below 0, and 0 where none are counted.
    """
    rows, ones = np.column_stack([sums_ms, np.ones_like(whole_ms)]) / whole_ms[:, None], np.ones_like(whole_ms)
    found, *_ = np.linalg.lstsq(rows, ones)
    if sums_ms.any(axis=0).all() and (found[1:-1] > 0).all():
        return np.asarray(found)
    (slope, offset), *_ = np.linalg.lstsq(rows[:, [0, -1]], ones)
    return np.array([slope, *np.zeros(sums_ms.shape[1] - 1), offset])


def errors_left_out(sums_ms: np.ndarray, whole_ms: np.ndarray) -> Iterator[float]:
    """Yield the relative error of each prediction by a line that was fitted to the others."""
    for left_out in range(len(sums_ms)):
        others = np.arange(len(sums_ms)) != left_out
        *slopes, offset = line(sums_ms[others], whole_ms[others])
        yield abs((sums_ms[left_out] @ slopes + offset) / whole_ms[left_out] - 1)
