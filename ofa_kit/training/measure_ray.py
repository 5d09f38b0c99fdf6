"""Measuring on all machines of a Ray cluster, one core a chunk, with the results of a single process."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from ofa_kit.arch.config import ArchConfig
from ofa_kit.errors import BackendError
from ofa_kit.training.measure_processes import Counted
from ofa_kit.training.measure_subnets import SubnetMeter


class RayCluster:
    """Puts the meter into the cluster's object store: its machines need ofa-kit, but neither the run nor its data.

    RAY_ADDRESS names the cluster; without it, one is found or started on this machine.
    """

    def __init__(self, meter: SubnetMeter) -> None:
        self.ray = load_ray()
        self.joined_here = not self.ray.is_initialized()
        if self.joined_here:
            self.ray.init(log_to_driver=False, logging_level="warning")
        self.width = int(self.ray.cluster_resources().get("CPU", 1))
        self.meter = self.ray.put(meter)
        self.count_correct = self.ray.remote(num_cpus=1)(SubnetMeter.count_correct)

    def measure(self, chunks: Sequence[Sequence[ArchConfig]]) -> Iterator[Counted]:
        chunk_of = {self.count_correct.remote(self.meter, chunk): chunk for chunk in chunks}
        waiting = list(chunk_of)
        while waiting:
            ready, waiting = self.ray.wait(waiting)
            for reference in ready:
                yield chunk_of[reference], self.ray.get(reference)

    def close(self) -> None:
        if self.joined_here:
            self.ray.shutdown()


def load_ray() -> Any:
    """Return the package; a BackendError when it is not installed."""
    try:
        return import_module("ray")
    except ImportError as error:
        raise BackendError(
            "--engine ray needs the package ray; run `pip install 'ofa-kit[ray]'`, or measure with --processes N"
        ) from error
