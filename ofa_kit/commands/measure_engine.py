"""How and where subnets are measured: images, runtime, processes or a Ray cluster."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from ofa_kit.arch.layers import layers, macs
from ofa_kit.errors import OfaKitError
from ofa_kit.training.evaluate import BATCH
from ofa_kit.training.measure_processes import Engine, OneProcess, SeveralProcesses
from ofa_kit.training.measure_ray import RayCluster
from ofa_kit.training.measure_subnets import RuntimeName, SubnetMeter

MOST_IN_A_PASS = 32
"""Subnets measured in one pass over the images: more of them have little more in common."""
LOST_S = 120.0
"""A pass of one process takes no longer, roughly: what a kill can lose."""
WORTH_A_PROCESS_S = 10.0
"""Work below which starting another process, some 3 s, does not pay."""
MACS_PER_S = 2e10
"""Multiply-adds of small networks on one core, roughly."""
LIVE_TENSORS = 3
"""Activations of one size that a process holds at once."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How subnets are measured; their top-1 does not depend on the engine or on how many processes there are."""

    images: int = 0
    """Validation images; 0 = all."""
    runtime: RuntimeName = "pytorch"
    engine: Literal["local", "ray"] = "local"
    processes: int = 0
    """Of this machine, one core each; 0 = as many as cores, memory and the work suggest."""

    def __post_init__(self) -> None:
        if self.engine == "ray" and self.processes:
            raise OfaKitError("--processes is for --engine local; a Ray cluster uses the cores that it has")


@contextmanager
def open_engine(how: Measuring, meter: SubnetMeter, subnets: int) -> Iterator[Engine]:
    """Give an engine to measure about so many subnets with."""
    count = how.processes or _fitting_processes(meter, subnets)
    engine: Engine
    if how.engine == "ray":
        engine = RayCluster(meter)
    else:
        engine = SeveralProcesses(meter, count) if count > 1 else OneProcess(meter)
    try:
        yield engine
    finally:
        engine.close()


def subnets_in_a_pass(meter: SubnetMeter, subnets: int, width: int) -> int:
    """Return how many subnets to measure in one pass, of so many, where `width` passes run at once."""
    return max(1, min(MOST_IN_A_PASS, math.ceil(subnets / width), int(LOST_S / _seconds_each(meter))))


def _fitting_processes(meter: SubnetMeter, subnets: int) -> int:
    """Return as many processes as PyTorch may use cores, half of the memory holds and the work is worth."""
    by_memory = int(_memory_bytes() / 2 / _peak_bytes(meter))
    by_work = int(subnets * _seconds_each(meter) / WORTH_A_PROCESS_S)
    return max(1, min(torch.get_num_threads(), by_memory, by_work))


def _seconds_each(meter: SubnetMeter) -> float:
    """Return about how long one core takes for a subnet in the middle of the space."""
    space = meter.supernet.space
    images = len(meter.calibration.labels) + len(meter.validation.labels)
    return images * math.sqrt(macs(space, space.smallest()) * macs(space, space.largest())) / MACS_PER_S


def _peak_bytes(meter: SubnetMeter) -> int:
    """Return about what a process needs: the images and the largest activations of a calibration batch."""
    space = meter.supernet.space
    largest = max(
        max(layer.hidden_channels * layer.input_size**2, layer.out_channels * layer.output_size**2)
        for layer in layers(space, space.largest())
    )
    images = meter.calibration.images.nbytes + meter.validation.images.nbytes
    return int(images + LIVE_TENSORS * largest * BATCH * 4)


def _memory_bytes() -> float:
    """Return the memory of this machine; infinite where the system does not tell."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
