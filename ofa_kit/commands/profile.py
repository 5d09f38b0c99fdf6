"""profile: the latency table of a space on a device: blocks from merged profiled graphs, whole subnets to calibrate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import layers
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.measure_accuracy import now
from ofa_kit.errors import OfaKitError
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.graphs.reference import reference_model
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.backends.backend import Backend, ProfilingBackend
from ofa_kit.latency.board.runner.machine import fingerprint
from ofa_kit.latency.board.runner.sessions import block_times_ms
from ofa_kit.latency.costs import costs_of
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import (
    EXTRA_SESSIONS,
    Measurement,
    TimingProtocol,
    blocks_settled,
    load_average,
    of_sessions,
    steady,
)
from ofa_kit.latency.side_by_side import REFERENCE_TOLERANCE, time_side_by_side
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors.latency import LatencyPredictor
from ofa_kit.progress import Reporter, Silent

TABLES = Path("latency_tables")
CHUNK = 8
"""Subnets timed interleaved in one session; a kill loses at most one unfinished chunk."""
BLOCK_RUNS = 30
"""Runs of a merged graph in a session."""


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
    resolutions: Sequence[int] | None = None,
    subnets: int | None = None,
    tables: Path = TABLES,
    reporter: Reporter | None = None,
) -> Profiled:
    """Measure what the table still lacks, at some resolutions or all; all that is measured already stays."""
    reporter = reporter or Silent()
    part = at_resolutions(space, resolutions)
    backend = backend_for(device)
    table = LatencyTable.create(tables, device, space, _provenance(device, backend))
    table.refuse_elsewhere("more of it")
    wanted = spread_subnets(part, max(subnets or device.subnets, 4))
    for session in range(table.protocol.sessions + EXTRA_SESSIONS):
        if isinstance(backend, ProfilingBackend):
            _measure_blocks(table, part, backend, session, reporter)
        missing = [arch for arch in wanted if table.lacks(arch, session)]
        if not missing:
            continue
        with reporter.task(f"subnets, session {session + 1}", len(missing)) as advance:
            for start, chunk in shuffled_chunks(missing, seed=session):
                measure_session(table, backend, models_of(space, chunk, backend))
                advance(start + len(chunk), "")
    return Profiled(table, fit(part, table), part)


def at_resolutions(space: SearchSpace, resolutions: Sequence[int] | None) -> SearchSpace:
    """Return the part of a space at some of its resolutions; an OfaKitError when it lacks one."""
    if not resolutions:
        return space
    unknown = sorted(set(resolutions) - set(space.resolutions))
    if unknown:
        raise OfaKitError(
            f"'{space.name}' has no resolution {', '.join(map(str, unknown))}; "
            f"it has {', '.join(map(str, space.resolutions))}"
        )
    return replace(space, resolutions=tuple(sorted(set(resolutions))))


def open_profiled(device: DeviceProfile, space: SearchSpace, tables: Path = TABLES) -> Profiled:
    """Open a table that was measured before."""
    table = LatencyTable.open(tables, device, space)
    return Profiled(table, fit(space, table), space)


def fit(space: SearchSpace, table: LatencyTable) -> LatencyPredictor:
    """Return what the table's measured subnets and blocks teach; an imported table is taken as it is."""
    if "imported_from" in table.provenance:
        return LatencyPredictor.sum_of_blocks(space, table.blocks)
    measured = [(arch, found.latency_ms) for arch, found in table.subnets.values() if space.contains(arch)]
    return LatencyPredictor.fit(space, table.blocks, measured)


def shuffled_chunks(archs: Sequence[ArchConfig], *, seed: int) -> Iterator[tuple[int, list[ArchConfig]]]:
    """Yield subnets that are timed side by side, with the number of those before them: others in each session."""
    order = np.random.default_rng(seed).permutation(len(archs))
    for start in range(0, len(archs), CHUNK):
        yield start, [archs[place] for place in order[start : start + CHUNK]]


def models_of(space: SearchSpace, archs: Sequence[ArchConfig], backend: Backend) -> dict[ArchConfig, bytes]:
    """Return serialized ONNX models with random weights: time does not depend on what they hold."""
    batch = backend.profile.batch
    return {arch: network_model(layers(space, arch), random_weights, batch=batch).SerializeToString() for arch in archs}


def measure_session(table: LatencyTable, backend: Backend, models: Mapping[ArchConfig, bytes]) -> None:
    """Time models side by side and append a row of each; in a disturbed session none has converged.

    A model that the backend refuses becomes a row with `error`.
    """
    found, failed, reference_ms = measure_models(backend, models, seed=sum(map(len, table.sessions.values())))
    load, measured_at = load_average(), now()
    for arch in models:
        if arch.key in failed:
            table.add_failure(arch, failed[arch.key], load=load, measured_at=measured_at)
    found = steady(found, reference_ms, table.reference_ms(reference_ms), REFERENCE_TOLERANCE)
    costs = costs_of(backend, {arch.key: models[arch] for arch in found if arch.key not in table.costs})
    for arch, value in found.items():
        table.add_subnet(arch, value, load=load, measured_at=measured_at, costs=costs.get(arch.key))


def measure_in_sessions(
    space: SearchSpace, backend: Backend, archs: Sequence[ArchConfig]
) -> tuple[dict[ArchConfig, Measurement], dict[str, str], float]:
    """Time subnets as a profile does, and write nothing: measurements, errors by key, the reference's floor in ms."""
    protocol: TimingProtocol = backend.profile.protocol
    found: dict[ArchConfig, list[Measurement]] = {}
    failed: dict[str, str] = {}
    references = []
    for session in range(protocol.sessions):
        for start, chunk in shuffled_chunks(archs, seed=session):
            models = models_of(space, chunk, backend)
            values, refused, reference_ms = measure_models(backend, models, seed=session * len(archs) + start)
            failed.update(refused)
            references.append(reference_ms)
            for arch, value in values.items():
                found.setdefault(arch, []).append(value)
    return {arch: of_sessions(each, protocol.tolerance) for arch, each in found.items()}, failed, min(references)


def measure_models(
    backend: Backend, models: Mapping[ArchConfig, bytes], *, seed: int
) -> tuple[dict[ArchConfig, Measurement], dict[str, str], float]:
    """Return measurements, the errors of models that the backend refused by key, and the reference's time in ms."""
    by_key = {arch.key: model for arch, model in models.items()}
    found, failed, reference_ms = time_side_by_side(backend, by_key, reference_model(backend.profile.batch), seed=seed)
    return {arch: found[arch.key] for arch in models if arch.key in found}, failed, reference_ms


def _measure_blocks(
    table: LatencyTable, space: SearchSpace, backend: ProfilingBackend, session: int, reporter: Reporter
) -> None:
    """Time the blocks that lack this session (0, 1, ...), those of a resolution in one merged graph."""
    found: dict[str, Layer] = {}
    todo: dict[int, list[Layer]] = {}
    for resolution in space.resolutions:
        new = {key: layer for key, layer in distinct_layers(space, resolution).items() if key not in found}
        found |= new
        missing = [layer for key, layer in new.items() if table.lacks_block(key, session)]
        if missing and not blocks_settled((table.block_sessions.get(key, []) for key in new), table.protocol):
            todo[resolution] = missing
    if not todo:
        return
    with reporter.task(f"blocks, session {session + 1}", len(todo)) as advance:
        for done, (resolution, missing) in enumerate(todo.items(), start=1):
            prefixes = {f"b{i}": layer for i, layer in enumerate(missing)}
            model = merged_model(prefixes, batch=backend.profile.batch).SerializeToString()
            times_ms = block_times_ms(backend.kernel_times_ms(model, BLOCK_RUNS), prefixes)
            seen = [(prefixes[name].key, ms) for name, ms in times_ms.items() if ms > 0]
            table.add_blocks(seen, runs=BLOCK_RUNS, load=load_average(), measured_at=now())
            advance(done, f"{resolution} px")


def _provenance(device: DeviceProfile, backend: Backend) -> dict[str, object]:
    return {
        "machine": fingerprint(),
        "versions": {"ofa-kit": version("ofa-kit"), **backend.versions},
        "device_facts": dict(backend.facts),
        "protocol": asdict(device.protocol),
        "block_runs": BLOCK_RUNS,
        "load": f"{load_average():.2f}",
        "begun_at": now(),
    }
