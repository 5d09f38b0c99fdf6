"""spos.csv of a run: each candidate of each measured search, in the order of the generations; it only grows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS, ArchConfig
from ofa_kit.arch.features import bit_operations_of, macs_of, params_of
from ofa_kit.commands.spos_evolution import Generation, SposEvolution, SposSettings
from ofa_kit.search.active import Measured
from ofa_kit.search.budget import Objective

LOG = "spos.csv"
SEARCH_COLUMNS = ("seed", "budget", "images", "weights_hash", "population", "generation", "origin")
COLUMNS = (
    *SEARCH_COLUMNS, "key", *ARCH_COLUMNS, "top1", "macs_m", "params_m", "bit_ops_g", "latency_ms_predicted",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SposCandidate:
    """A measured subnet within the budget."""

    arch: ArchConfig
    top1: float
    """Percent of the validation images, measured."""
    macs_m: float
    params_m: float
    bit_ops_g: float
    """Multiply-adds of quantised layers times the bits of both factors, in 10^9; 0 where nothing is quantised."""
    latency_ms_predicted: float | None
    """None without a device."""
    latency_ms: float | None = None
    """Measured on the device; None without a latency budget, infinite where the device cannot run it."""


class SposLog:
    """The rows of one search in the file: those of the same budget, settings, images and weights."""

    def __init__(
        self,
        path: Path,
        objective: Objective,
        *,
        budget: str,
        images: int,
        weights_hash: str,
        settings: SposSettings,
    ) -> None:
        self.path, self.objective = path, objective
        self.search = {"seed": str(settings.seed), "budget": budget, "images": str(images)}
        self.search["weights_hash"] = weights_hash
        self.search["population"] = " ".join(str(value) for key, value in asdict(settings).items() if key != "seed")
        self.written: set[int] = set()

    def recorded(self) -> dict[int, Generation]:
        """Return the generations of this search that the file holds, by number."""
        rows: dict[int, dict[str, dict[str, str]]] = {}
        for row in storage.read_rows(self.path, COLUMNS):
            if all(row[key] == value for key, value in self.search.items()):
                rows.setdefault(int(row["generation"]), {})[row["key"]] = row
        self.written = set(rows)
        return {
            number: Generation(
                number,
                tuple(ArchConfig.from_row(row) for row in found.values()),
                tuple(row["origin"] for row in found.values()),
            )
            for number, found in rows.items()
        }

    def append(self, evolution: SposEvolution, measured: Measured) -> list[str]:
        """Write the generations that are measured and not in the file; return a line on each."""
        top1_of, said, best = {arch.key: top1 for arch, top1 in measured}, [], -math.inf
        for generation in evolution.generations(measured):
            found = self._candidates(generation.archs, top1_of)
            if len(found) < len(generation.archs):
                break
            best = max(best, *(candidate.top1 for candidate in found))
            if generation.number not in self.written:
                self.written.add(generation.number)
                rows = zip(generation.origins, found, strict=True)
                number = generation.number
                storage.append_rows(self.path, COLUMNS, [self._row(number, origin, one) for origin, one in rows])
                said.append(f"generation {number + 1}: {len(found)} candidates, best top-1 {best:.2f} % (measured)")
        return said

    def candidates(self, evolution: SposEvolution, measured: Measured) -> list[SposCandidate]:
        """Return all measured candidates of the search, most accurate first."""
        top1_of = {arch.key: top1 for arch, top1 in measured}
        found = [c for one in evolution.generations(measured) for c in self._candidates(one.archs, top1_of)]
        return sorted(found, key=lambda candidate: -candidate.top1)

    def _candidates(self, archs: Sequence[ArchConfig], top1_of: Mapping[str, float]) -> list[SposCandidate]:
        space, predict_ms = self.objective.space, self.objective.predict_latency_ms
        genomes = np.stack([space.encode(arch) for arch in archs])
        costs = [
            macs_of(space, genomes) / 1e6,
            params_of(space, genomes) / 1e6,
            bit_operations_of(space, genomes) / 1e9,
        ]
        found = []
        for arch, macs_m, params_m, bits, ms in zip(archs, *costs, predict_ms(genomes), strict=True):
            if arch.key in top1_of:
                found.append(
                    SposCandidate(
                        arch=arch,
                        top1=top1_of[arch.key],
                        macs_m=float(macs_m),
                        params_m=float(params_m),
                        bit_ops_g=float(bits),
                        latency_ms_predicted=None if math.isnan(ms) else float(ms),
                    )
                )
        return found

    def _row(self, number: int, origin: str, candidate: SposCandidate) -> dict[str, object]:
        arch = candidate.arch
        ms = candidate.latency_ms_predicted
        return {
            **self.search,
            "generation": number,
            "origin": origin,
            "key": arch.key,
            **arch.to_row(),
            "top1": f"{candidate.top1:.4f}",
            "macs_m": f"{candidate.macs_m:.6f}",
            "params_m": f"{candidate.params_m:.6f}",
            "bit_ops_g": f"{candidate.bit_ops_g:.6f}",
            "latency_ms_predicted": "" if ms is None else f"{ms:.5f}",
        }
