"""What whole networks cost beside time: size of the model, peak memory, energy; each where it can be told."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ofa_kit.errors import BackendError
from ofa_kit.graphs.precision import serialized_in_precision
from ofa_kit.latency.backends.backend import Backend
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Runnable

RAPL = Path("/sys/class/powercap")
ENERGY_S = 0.5
"""Least time over which energy is counted: the counters step every millisecond or so."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one network; None where this device does not tell."""

    model_mib: float | None = None
    """Size of the ONNX model in the device's precision."""
    peak_memory_mib: float | None = None
    """Main memory that loading and running the model adds to a process that has the runtime loaded already."""
    energy_mj: float | None = None
    """Energy of one run of one batch, of the whole processor package, idle power included."""


def costs_of(backend: Backend, models: Mapping[str, bytes]) -> dict[str, Costs]:
    """Return the costs of fp32 models by name."""
    profile = backend.profile
    peaks = peak_memory_mib(profile, models)
    joules = energy_counter() if profile.on_cpu else None
    return {
        name: Costs(
            model_mib=len(serialized_in_precision(model, profile.precision)) / 2**20,
            peak_memory_mib=peaks.get(name),
            energy_mj=None if joules is None else energy_mj(backend.load(model), joules),
        )
        for name, model in models.items()
    }


def peak_memory_mib(profile: DeviceProfile, models: Mapping[str, bytes]) -> dict[str, float]:
    """Return MiB by name, measured in a process for each model; {} where the device's memory is not this machine's."""
    if profile.backend != "onnxruntime" or not profile.on_cpu or not models:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (name, model) in enumerate(models.items()):
            files[name] = str(Path(folder) / f"{number}.onnx")
            Path(files[name]).write_bytes(model)
        request = json.dumps({"device": asdict(profile), "models": list(files.values())})
        command = [sys.executable, "-m", "ofa_kit.latency.peak_memory"]
        done = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackendError(f"device '{profile.name}': peak memory cannot be measured: {said[-1]}")
    return dict(zip(files, json.loads(done.stdout), strict=True))


def energy_counter(root: Path = RAPL) -> Callable[[], float] | None:
    """Return a function that reads joules used so far by all processor packages; None where none can be read.

    Linux lets only root read them, and virtual machines have none.
    """
    files = sorted(root.glob("intel-rapl:?/energy_uj"))
    try:
        [int(path.read_text(encoding="ascii")) for path in files]
    except (OSError, ValueError):
        return None
    if not files:
        return None
    return lambda: sum(int(path.read_text(encoding="ascii")) for path in files) / 1e6


def energy_mj(run: Runnable, joules: Callable[[], float], seconds: float = ENERGY_S) -> float | None:
    """Return millijoules of one run, averaged over `seconds` of runs; None when the counter wrapped meanwhile."""
    run()
    start_j, start_s, runs = joules(), time.perf_counter(), 0
    while time.perf_counter() - start_s < seconds:
        run()
        runs += 1
    used_j = joules() - start_j
    return 1e3 * used_j / runs if used_j >= 0 else None
