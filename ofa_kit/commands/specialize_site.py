"""A device as specialize sees it: subnets are timed on it here, or known from its table alone."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.profile import TABLES, Profiled, measure_session, open_profiled
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.predictors.latency import MINIMUM, LatencyPredictor

Percentile = Literal["floor", "50", "90", "99"]


@dataclass(frozen=True, kw_only=True)
class Safety:
    """Which time of a subnet has to stay within the budget, and how far below."""

    percentile: Percentile = "floor"
    """The floor, which repeats best; or a quantile of wall-clock time, with whatever else the machine did then."""
    headroom: float = 0.0
    """Percent of the budget that stay free."""

    def __post_init__(self) -> None:
        if not 0 <= self.headroom < 100:
            raise OfaKitError(f"--headroom must be at least 0 and below 100 %, found {self.headroom:g}")

    def time_ms(self, found: Measurement) -> float:
        """Return the time that counts, in milliseconds."""
        times = {"floor": found.latency_ms, "50": found.p50_ms, "90": found.p90_ms, "99": found.p99_ms}
        return times[self.percentile]

    def usable(self, limit_ms: float) -> float:
        """Return what the headroom leaves of a budget."""
        return limit_ms * (1 - self.headroom / 100)


class Site:
    """One device with its latency table."""

    def __init__(self, device: DeviceProfile, space: SearchSpace, tables: Path = TABLES) -> None:
        self.device, self.space = device, space
        self.profiled: Profiled = open_profiled(device, space, tables)
        self.table, self.predictor = self.profiled.table, self.profiled.predictor
        elsewhere = {"measured_elsewhere", "imported_from"} & self.table.provenance.keys()
        self.backend = None if elsewhere else backend_for(device)
        self._timed: set[str] = set()

    @property
    def is_here(self) -> bool:
        """Whether subnets can be timed on it now."""
        return self.backend is not None

    @property
    def table_hash(self) -> str:
        """Hash of the table's rows, as deployments name it."""
        return hashlib.sha256(self.table.path.read_bytes()).hexdigest()[:12]

    def untimed(self, archs: Sequence[ArchConfig]) -> list[ArchConfig]:
        """Return the subnets that `time` did not see; none where they cannot be timed."""
        return [arch for arch in archs if self.is_here and arch.key not in self._timed]

    def time(self, models: Mapping[ArchConfig, bytes]) -> None:
        """Time models side by side in sessions apart in time; every session of each becomes a row of the table."""
        if self.backend is None or not models:
            return
        self._timed.update(arch.key for arch in models)
        for _ in range(self.device.protocol.sessions):
            measure_session(self.table, self.backend, models)

    def measured(self, arch: ArchConfig) -> Measurement | None:
        """Return what the table says of a subnet; None where it was not measured, or could not be."""
        if arch.key in self.table.failed or arch.key not in self.table.subnets:
            return None
        return self.table.subnets[arch.key][1]

    def time_ms(self, arch: ArchConfig, safety: Safety) -> float:
        """Return the measured time that counts; where it cannot be measured, the predicted one with its error."""
        if found := self.measured(arch):
            return safety.time_ms(found)
        if self.is_here:
            return float("inf")
        predicted_ms, error_ms = self.predictor.predict(self.space.encode(arch)[None])
        return float(predicted_ms[0] + np.nan_to_num(error_ms[0])) * self.time_per_floor(safety)

    def time_per_floor(self, safety: Safety) -> float:
        """Return the time that counts as times of the floor, which is what predictors predict: median of the table."""
        if safety.percentile == "floor":
            return 1.0
        found = [safety.time_ms(value) / value.latency_ms for _, value in self.table.subnets.values()]
        found = [ratio for ratio in found if np.isfinite(ratio)]
        if not found:
            raise OfaKitError(
                f"'{self.table.path}' holds no quantiles, so --percentile {safety.percentile} cannot be kept on "
                f"{self.device.name}; leave it out, or profile the device"
            )
        return float(np.median(found))

    def predicted_unseen_ms(self, arch: ArchConfig) -> float:
        """Return the milliseconds that a predictor says which has not seen the measurements of `arch`."""
        genome = self.space.encode(arch)[None]
        times = [(a, found.latency_ms) for a, found in self.table.subnets.values() if a != arch]
        if len(times) < MINIMUM or not self.predictor.held_out:
            return float(self.predictor.predict_ms(genome)[0])
        return float(LatencyPredictor.fit(self.space, self.table.blocks, times).predict_ms(genome)[0])
