"""OpenVINO on the CPU: compiled models with bound inputs, and per-node times of a merged graph."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ofa_kit.errors import BackendError
from ofa_kit.graphs.precision import serialized_in_precision
from ofa_kit.latency.device import DeviceProfile, Precision
from ofa_kit.latency.protocol import timer

Array = NDArray[np.float32]

CAPABILITIES: dict[Precision, str] = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8"}
COPIES = 8
"""Times that a profiled model is loaded; each copy has counters of its own."""


class OpenVinoBackend:
    """OpenVINO's CPU plugin, one stream, tuned for latency."""

    def __init__(self, profile: DeviceProfile) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendError("package openvino is not installed; run `pip install 'ofa-kit[openvino]'`") from error
        if profile.launch != "eager":
            raise BackendError(f"device '{profile.name}': openvino has no launch '{profile.launch}'; use launch: eager")
        self._core = openvino.Core()
        if "CPU" not in self._core.available_devices:
            raise BackendError("openvino finds no CPU plugin; run `pip install --force-reinstall openvino`")
        # A processor without half-precision arithmetic takes such a model and computes it in single precision.
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precisions = tuple(precision for precision, name in CAPABILITIES.items() if name in able)
        self.profile = profile
        self.versions = {"openvino": str(openvino.__version__)}
        self.facts: dict[str, str] = {}
        self.timer = timer(perf_counter)  # it computes on threads of its own

    def load(self, model: bytes) -> "OpenVinoModel":
        """Return a compiled model for a serialized fp32 model; a BackendError when the runtime refuses it."""
        return OpenVinoModel(self._compiled(model, self._properties(counters=False)), self.profile)

    def kernel_times_ms(
        self, model: bytes, runs: int, on_run: Callable[[], None] = lambda: None
    ) -> dict[str, list[float]]:
        """Return milliseconds by node name: means over the runs of some copies of the model, without their first run.

        The runtime's counters are means since the model was compiled, so times of single runs cannot be had; copies
        keep a disturbance in a few of the means. A fused node's time is in the node of its block that took it in.
        """
        copies = min(COPIES, runs)
        properties = self._properties(counters=True)
        exported = self._compiled(model, properties).export_model()
        layers = {node.name.partition("/")[0] for node in onnx.load_from_string(model).graph.node}
        times: dict[str, list[float]] = defaultdict(list)
        for copy in range(copies):
            loaded = OpenVinoModel(self._core.import_model(exported, "CPU", properties), self.profile)
            for name, ms in _mean_times_ms(loaded, runs // copies + (copy < runs % copies), on_run).items():
                if _inside(name, layers):
                    times[name].append(ms)
        return dict(times)

    def _compiled(self, model: bytes, properties: Mapping[str, object]) -> Any:
        converted = serialized_in_precision(model, self.profile.precision)
        try:
            return self._core.compile_model(self._core.read_model(converted), "CPU", properties)
        except Exception as error:
            raise BackendError(f"openvino cannot load the model: {' '.join(str(error).split())}") from error

    def _properties(self, *, counters: bool) -> dict[str, object]:
        # Left alone, the plugin computes fp32 models in bfloat16 on processors that have it.
        half = self.profile.precision == "fp16"
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.profile.threads,
            "INFERENCE_PRECISION_HINT": "f16" if half else "f32",
            "PERF_COUNT": counters,
            **self.profile.options,
        }


class OpenVinoModel:
    """A compiled model; calling it runs one inference on fixed inputs that stay bound."""

    def __init__(self, compiled: Any, profile: DeviceProfile) -> None:
        from openvino import Tensor

        self._compiled = compiled
        self._request = compiled.create_infer_request()
        rng = np.random.default_rng(0)
        for port in compiled.inputs:
            shape = [profile.batch if size.is_dynamic else size.get_length() for size in port.partial_shape]
            self._request.set_tensor(port, Tensor(rng.standard_normal(shape, dtype=np.float32)))

    def __call__(self) -> None:
        self._request.infer(share_outputs=True)

    def predict(self, batches: Iterable[Array]) -> Array:
        """Return the logits (N, classes) of image batches (n, C, R, R)."""
        request = self._compiled.create_infer_request()
        return np.concatenate([np.array(request.infer([batch])[0]) for batch in batches])

    def mean_us(self) -> dict[str, int]:
        """Return the mean time of each node over all calls so far, cut to whole microseconds."""
        nodes = self._request.get_profiling_info()
        return {node.node_name: node.real_time // timedelta(microseconds=1) for node in nodes}


def _mean_times_ms(loaded: OpenVinoModel, runs: int, on_run: Callable[[], None]) -> dict[str, float]:
    """Run once and then `runs` times; return each executed node's mean over the latter in milliseconds."""
    loaded()
    on_run()
    first = loaded.mean_us()
    for _ in range(runs):
        loaded()
        on_run()
    # Half a microsecond is cut from a mean on average.
    total = {name: (mean + 0.5) * (runs + 1) for name, mean in loaded.mean_us().items() if mean}
    return {name: max(0.0, us - first[name] - 0.5) / runs / 1e3 for name, us in total.items()}


def _inside(name: str, layers: Collection[str]) -> bool:
    """Whether a node is a layer's own work: not a reorder of a graph's input or output, which a network has not."""
    return name.partition("/")[0] in layers and not name.endswith("/sink_port_0")
