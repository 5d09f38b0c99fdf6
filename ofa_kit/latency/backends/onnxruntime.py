"""ONNX Runtime: sessions with bound inputs, and per-kernel times of a merged graph."""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_kit.errors import BackendError
from ofa_kit.latency.device import DeviceProfile

Array = NDArray[np.float32]


class OrtBackend:
    """ONNX Runtime with one execution provider."""

    def __init__(self, profile: DeviceProfile) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendError("package onnxruntime is not installed; run `pip install onnxruntime`") from error
        if profile.provider not in onnxruntime.get_available_providers():
            found = ", ".join(onnxruntime.get_available_providers())
            raise BackendError(
                f"device '{profile.name}' asks for {profile.provider}, this onnxruntime has {found}; "
                "choose another device profile or install the matching onnxruntime package"
            )
        self.profile = profile
        self.versions = {"onnxruntime": str(onnxruntime.__version__)}

    def load(self, model: bytes) -> "OrtModel":
        """Return a session for a serialized model; a BackendError when the runtime refuses it."""
        return OrtModel(self._session(model), self.profile)

    def kernel_times_ms(
        self, model: bytes, runs: int, on_run: Callable[[], None] = lambda: None
    ) -> dict[str, list[float]]:
        """Run under the profiler and return each named node's times in milliseconds, one a run, warm-up left out."""
        warmup = 5
        with tempfile.TemporaryDirectory() as folder:
            session = self._session(model, profile_prefix=str(Path(folder) / "ort"))
            loaded = OrtModel(session, self.profile)
            for _ in range(warmup + runs):
                loaded()
                on_run()
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        times: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                times[event["name"]].append(event["dur"] / 1000.0)
        return {name: values[warmup:] for name, values in times.items()}

    def _session(self, model: bytes, profile_prefix: str | None = None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.profile.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if profile_prefix:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        try:
            session = onnxruntime.InferenceSession(model, options, providers=[self.profile.provider])
        except Exception as error:
            raise BackendError(f"onnxruntime cannot load the model: {' '.join(str(error).split())}") from error
        if session.get_providers()[0] != self.profile.provider:
            raise BackendError(f"onnxruntime fell back from {self.profile.provider} to {session.get_providers()[0]}")
        return session


class OrtModel:
    """A loaded model; calling it runs one inference on fixed inputs that stay bound."""

    def __init__(self, session: Any, profile: DeviceProfile) -> None:
        self._session = session
        self._binding = session.io_binding()
        rng = np.random.default_rng(0)
        for value in session.get_inputs():
            shape = [size if isinstance(size, int) else profile.batch for size in value.shape]
            self._binding.bind_cpu_input(value.name, rng.standard_normal(shape, dtype=np.float32))
        for value in session.get_outputs():
            self._binding.bind_output(value.name)

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def predict(self, batches: Iterable[Array]) -> Array:
        """Return the logits (N, classes) of image batches (n, C, R, R)."""
        name = self._session.get_inputs()[0].name
        return np.concatenate([self._session.run(None, {name: batch})[0] for batch in batches])


def block_times_ms(times: dict[str, list[float]], prefixes: Iterable[str]) -> dict[str, float]:
    """Sum the kernels of each block by the prefix of their node names: mean of the faster half of the runs."""
    known = set(prefixes)
    pattern = re.compile(r"(b\d+)/")
    blocks: dict[str, float] = defaultdict(float)
    for name, values in times.items():
        found = pattern.search(name)
        if found and found[1] in known:
            fast = sorted(values)[: max(1, len(values) // 2)]
            blocks[found[1]] += sum(fast) / len(fast)
    return dict(blocks)
