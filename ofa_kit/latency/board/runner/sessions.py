"""ONNX Runtime: sessions with bound inputs, and how long the kernels of a merged graph take."""

from __future__ import annotations

import json
import platform
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import numpy as np

from ...protocol import timer
from .kit import RunnerError

CPU = "CPUExecutionProvider"
ON_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
PROFILER_WARMUP = 5
FASTEST = 5
"""One in so many runs of a kernel counts: other work on the machine may slow down more than half of them."""


class Runtime:
    """ONNX Runtime as a device profile wants it: provider, its options, threads and batch."""

    def __init__(self, device: Mapping[str, Any]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RunnerError(
                f"package onnxruntime cannot be imported: {_one_line(error)}; install one that runs on this machine"
            ) from error
        self._device, self._provider = device, str(device["provider"])
        found = onnxruntime.get_available_providers()
        if self._provider not in found:
            raise RunnerError(
                f"the kit is for {self._provider}, this onnxruntime has {', '.join(found)}; "
                "install the onnxruntime package that has it or make a kit for another device profile"
            )
        self.versions = {
            "onnxruntime": str(onnxruntime.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        }
        self.timed = timer(thread_time if device["threads"] == 1 and self._provider == CPU else perf_counter)

    def load(self, model: Path) -> BoundModel:
        """Return the loaded model, which ran once; a RunnerError says why the runtime refuses it."""
        session = open_session(model, self._device)
        try:
            loaded = BoundModel(session, self._device)
            loaded()
        except Exception as error:
            raise RunnerError(f"onnxruntime cannot run '{model.name}': {_one_line(error)}") from error
        return loaded

    def kernel_times_ms(self, model: Path, runs: int) -> dict[str, list[float]]:
        """Return each named node's times in milliseconds as `kernel_times_ms` does."""
        return kernel_times_ms(model, self._device, runs)


class BoundModel:
    """A loaded model; calling it runs one inference on fixed random inputs that stay bound where the model runs."""

    def __init__(self, session: Any, device: Mapping[str, Any]) -> None:
        from onnxruntime import OrtValue

        on_gpu = device["provider"] in ON_CUDA
        place = ("cuda", int(device["options"].get("device_id", "0"))) if on_gpu else ("cpu", 0)
        rng = np.random.default_rng(0)
        self.session = session
        self._binding = session.io_binding()
        self._inputs = []  # a value on the CPU only refers to its array: hold it
        for value in session.get_inputs():
            shape = [size if isinstance(size, int) else device["batch"] for size in value.shape]
            images = rng.standard_normal(shape, dtype=np.float32)
            self._inputs.append(OrtValue.ortvalue_from_numpy(images, *place))
            self._binding.bind_ortvalue_input(value.name, self._inputs[-1])
        for value in session.get_outputs():
            self._binding.bind_output(value.name, *place)

    def __call__(self) -> None:
        self.session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()


def open_session(model: Path | bytes, device: Mapping[str, Any], *, profile_prefix: str = "") -> Any:
    """Return a session on the device profile's provider and on no other; a RunnerError says why there is none."""
    import onnxruntime

    provider, given = str(device["provider"]), dict(device["options"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device["threads"]
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised
    entries = given if provider == CPU else {"session.disable_cpu_ep_fallback": "1"}
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    name, content = ("the model", model) if isinstance(model, bytes) else (f"'{model.name}'", str(model))
    chosen = [(provider, {} if provider == CPU else given)]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=chosen, enable_fallback=0)
    except Exception as error:
        raise RunnerError(f"onnxruntime cannot load {name}: {_one_line(error)}") from error
    if session.get_providers()[0] != provider:
        raise RunnerError(f"onnxruntime fell back from {provider} to {session.get_providers()[0]}")
    return session


def kernel_times_ms(
    model: Path | bytes, device: Mapping[str, Any], runs: int, on_run: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Run under the profiler and return each named node's times in milliseconds, one a run, warm-up left out."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, device, profile_prefix=str(Path(folder) / "ort"))
        loaded = BoundModel(session, device)
        for _ in range(PROFILER_WARMUP + runs):
            loaded()
            on_run()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"]].append(event["dur"] / 1000.0)
    return {name: values[PROFILER_WARMUP:] for name, values in times.items()}


def block_times_ms(times: Mapping[str, Sequence[float]], prefixes: Iterable[str]) -> dict[str, float]:
    """Sum the kernels of each block by the prefix of their node names: mean of the fastest fifth of the runs."""
    known = set(prefixes)
    pattern = re.compile(r"(b\d+)/")
    blocks: dict[str, float] = defaultdict(float)
    for name, values in times.items():
        found = pattern.search(name)
        if found and found[1] in known:
            fast = sorted(values)[: max(1, len(values) // FASTEST)]
            blocks[found[1]] += sum(fast) / len(fast)
    return dict(blocks)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
