"""profile: the latency table of a space on a device: blocks from merged profiled graphs, whole subnets to calibrate."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.measure_accuracy import now
from ofa_kit.errors import BackendError
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.backends.onnxruntime import OrtBackend, block_times_ms
from ofa_kit.latency.device import DeviceProfile, fingerprint
from ofa_kit.latency.protocol import REFERENCE, Measurement, TimingProtocol, load_average, measure
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors.latency import LatencyPredictor
from ofa_kit.progress import Reporter, Silent

TABLES = Path("latency_tables")
CHUNK = 8
"""Subnets timed interleaved in one session; a kill loses at most one unfinished chunk."""
BLOCK_RUNS = 40
REFERENCE_TOLERANCE = 0.05
"""Sessions whose reference kernel is further off than this do not count as converged."""


@dataclass(frozen=True)
class Profiled:
    """A latency table and the predictor calibrated on it."""

    table: LatencyTable
    predictor: LatencyPredictor
    space: SearchSpace


def profile(
    device: DeviceProfile,
    space: SearchSpace,
    *,
    subnets: int | None = None,
    tables: Path = TABLES,
    reporter: Reporter | None = None,
) -> Profiled:
    """Measure what the table still lacks; all that is measured already stays."""
    reporter = reporter or Silent()
    backend = backend_for(device)
    table = LatencyTable.create(tables, device, space, _provenance(device, backend))
    _measure_blocks(table, space, backend, reporter)
    wanted = spread_subnets(space, max(subnets or device.subnets, 4))
    missing = [arch for arch in wanted if arch.key not in table.subnets]
    with reporter.task("subnets", len(missing)) as advance:
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            models = {
                arch: network_model(layers(space, arch), random_weights, batch=device.batch).SerializeToString()
                for arch in chunk
            }
            for arch, found in measure_subnets(table, backend, models).items():
                table.add_subnet(arch, found, load=load_average(), measured_at=now())
            advance(start + len(chunk), "")
    return Profiled(table, fit(space, table), space)


def open_profiled(device: DeviceProfile, space: SearchSpace, tables: Path = TABLES) -> Profiled:
    """Open a table that was measured before."""
    table = LatencyTable.open(tables, device, space)
    return Profiled(table, fit(space, table), space)


def fit(space: SearchSpace, table: LatencyTable) -> LatencyPredictor:
    """Calibrate the table's blocks on its measured subnets."""
    measured = [(arch, found.latency_ms) for arch, found in table.subnets.values()]
    return LatencyPredictor.fit(space, table.blocks, measured)


def measure_subnets(
    table: LatencyTable, backend: OrtBackend, models: Mapping[ArchConfig, bytes], protocol: TimingProtocol | None = None
) -> dict[ArchConfig, Measurement]:
    """Time models interleaved with the reference kernel; a session on a disturbed machine is not `converged`.

    A model that the backend refuses becomes a row with `error` and is missing in the answer.
    """
    reference, loaded = preset("mbv3-tiny"), {}
    for arch, model in models.items():
        try:
            loaded[arch.key] = backend.load(model)
        except BackendError as error:
            table.add_failure(arch, str(error), load=load_average(), measured_at=now())
    loaded[REFERENCE] = backend.load(
        network_model(
            layers(reference, reference.largest()), random_weights, batch=backend.profile.batch
        ).SerializeToString()
    )
    on_this_thread = backend.profile.threads == 1 and backend.profile.provider == "CPUExecutionProvider"
    clock = thread_time if on_this_thread else perf_counter
    seed = len(table.subnets)
    found = measure(loaded, np.random.default_rng(seed), protocol, clock=clock)
    stored_ms = table.reference_ms(found[REFERENCE].latency_ms)
    steady = abs(found[REFERENCE].latency_ms / stored_ms - 1) <= REFERENCE_TOLERANCE
    measured = {arch: found[arch.key] for arch in models if arch.key in found}
    return {arch: replace(value, converged=value.converged and steady) for arch, value in measured.items()}


def _measure_blocks(table: LatencyTable, space: SearchSpace, backend: OrtBackend, reporter: Reporter) -> None:
    todo = {}
    for resolution in space.resolutions:
        missing = {k: layer for k, layer in distinct_layers(space, resolution).items() if k not in table.blocks}
        if missing:
            todo[resolution] = missing
    with reporter.task("blocks", len(todo) * (BLOCK_RUNS + 5)) as advance:
        done = [0]

        def on_run() -> None:
            done[0] += 1
            advance(done[0], "")

        for missing in todo.values():
            missing = {k: layer for k, layer in missing.items() if k not in table.blocks}
            if not missing:
                continue  # an earlier resolution had the same blocks
            prefixes = {f"b{i}": layer for i, layer in enumerate(missing.values())}
            model = merged_model(prefixes, batch=backend.profile.batch).SerializeToString()
            times = block_times_ms(backend.kernel_times_ms(model, BLOCK_RUNS, on_run), prefixes)
            by_key = {prefixes[prefix].key: ms for prefix, ms in times.items()}
            table.add_blocks(by_key, runs=BLOCK_RUNS, load=load_average(), measured_at=now())


def _provenance(device: DeviceProfile, backend: OrtBackend) -> dict[str, object]:
    return {
        "device": asdict(device),
        "machine": fingerprint(),
        "versions": {"ofa-kit": version("ofa-kit"), **backend.versions},
        "protocol": asdict(TimingProtocol()),
        "block_runs": BLOCK_RUNS,
        "begun_at": now(),
    }
