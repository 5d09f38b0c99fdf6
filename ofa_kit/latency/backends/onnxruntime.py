"""ONNX Runtime: sessions with bound inputs, on the CPU or on an NVIDIA GPU; on the CPU also per-kernel times."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ofa_kit.errors import BackendError
from ofa_kit.graphs.precision import serialized_in_precision
from ofa_kit.latency.board.runner.kit import RunnerError
from ofa_kit.latency.board.runner.sessions import CPU, BoundModel, kernel_times_ms, open_session
from ofa_kit.latency.device import DeviceProfile, Precision
from ofa_kit.latency.protocol import timer

Array = NDArray[np.float32]

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
# The CPU provider computes half in single precision and the CUDA provider int8 pairs in floats: neither is offered.
PRECISIONS: dict[str, tuple[Precision, ...]] = {
    CPU: ("fp32", "int8"),
    CUDA: ("fp32", "fp16"),
    TENSORRT: ("fp32", "fp16", "int8"),
}
INSTALL = {
    CUDA: "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    TENSORRT: "pip install 'onnxruntime-gpu[cuda,cudnn]' 'tensorrt>=10,<11'",
}
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
LIBRARIES = ("tensorrt", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def ort_backend(profile: DeviceProfile) -> "OrtBackend":
    """Return the backend of a profile's execution provider; only the CPU's tells the times of kernels."""
    return OrtCpuBackend(profile) if profile.provider == CPU else OrtBackend(profile)


class OrtBackend:
    """ONNX Runtime with one execution provider, and never another one in its place."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self.precisions = PRECISIONS.get(profile.provider, ("fp32",))
        self.versions = _package(profile)
        self.facts: dict[str, str] = {}
        self.timer = timer(thread_time if profile.threads == 1 and profile.provider == CPU else perf_counter)
        if profile.launch != "eager":
            raise BackendError(
                f"device '{profile.name}': onnxruntime has no launch '{profile.launch}'; "
                "use launch: eager, or backend: tensorrt or torch-cuda"
            )
        if profile.provider in INSTALL:
            self._start_gpu()

    def load(self, model: bytes) -> "OrtModel":
        """Return a session for a serialized fp32 model; a BackendError when the runtime refuses it."""
        on_tensorrt = self.profile.provider == TENSORRT
        converted = serialized_in_precision(model, self.profile.precision, "tensorrt" if on_tensorrt else "cpu")
        return OrtModel(self._session(converted), self.profile)

    def _start_gpu(self) -> None:
        """Take the driver's facts, load CUDA's libraries and run one node; a BackendError says what is missing."""
        from ofa_kit.latency.backends.nvidia import require_driver

        provider = self.profile.provider
        self.facts = require_driver(f"device '{self.profile.name}'")
        self.versions["driver"] = self.facts.pop("driver")
        missing = _load_libraries(provider)
        for library in LIBRARIES:
            with suppress(PackageNotFoundError):
                self.versions[library] = version(library)
        try:
            OrtModel(self._session(_one_node()), self.profile)()
        except BackendError as error:
            reason = missing or str(error)
            raise BackendError(f"onnxruntime cannot start {provider}: {reason}; run `{INSTALL[provider]}`") from error

    def _session(self, model: bytes) -> Any:
        with _as_backend_error():
            return open_session(model, asdict(self.profile))


class OrtCpuBackend(OrtBackend):
    """ONNX Runtime on the CPU, which can say how long each kernel takes."""

    def kernel_times_ms(
        self, model: bytes, runs: int, on_run: Callable[[], None] = lambda: None
    ) -> dict[str, list[float]]:
        """Run under the profiler and return each named node's times in milliseconds, one a run, warm-up left out."""
        model = serialized_in_precision(model, self.profile.precision)
        with _as_backend_error():
            times = kernel_times_ms(model, asdict(self.profile), runs, on_run)
        for name in _back_to_fp32(model):
            times.pop(f"{name}_kernel_time", None)
        return times


class OrtModel(BoundModel):
    """A loaded model; calling it runs one inference on fixed inputs that stay bound where the model runs."""

    def __init__(self, session: Any, profile: DeviceProfile) -> None:
        super().__init__(session, asdict(profile))

    def predict(self, batches: Iterable[Array]) -> Array:
        """Return the logits (N, classes) of image batches (n, C, R, R)."""
        name = self.session.get_inputs()[0].name
        return np.concatenate([self.session.run(None, {name: batch})[0] for batch in batches])


@contextmanager
def _as_backend_error() -> Iterator[None]:
    """Raise what the runner says as a BackendError."""
    try:
        yield
    except RunnerError as error:
        raise BackendError(str(error)) from error


def _package(profile: DeviceProfile) -> dict[str, str]:
    """Return name and version of the onnxruntime package; a BackendError when it lacks the profile's provider."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    if len(found) > 1:
        raise BackendError(
            f"{' and '.join(found)} are both installed and overwrite each other's files; run "
            "`pip uninstall onnxruntime onnxruntime-gpu` and install the one that you need"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("package onnxruntime is not installed; run `pip install onnxruntime`") from error
    providers = onnxruntime.get_available_providers()
    if profile.provider not in providers:
        found_in = "install an onnxruntime package that has it"
        if profile.provider in INSTALL:
            found_in = f"run `pip uninstall onnxruntime` and `{INSTALL[profile.provider]}`"
        raise BackendError(
            f"device '{profile.name}' asks for {profile.provider}, this onnxruntime has {', '.join(providers)}; "
            f"choose another device profile or {found_in}"
        )
    return found or {"onnxruntime": str(onnxruntime.__version__)}


def _load_libraries(provider: str) -> str:
    """Load CUDA, cuDNN and TensorRT from their Python packages; return what could not be loaded, if anything."""
    import onnxruntime

    said = io.StringIO()
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21; before, the loader's own paths have to hold them
        with redirect_stdout(said):
            onnxruntime.preload_dlls()
    if provider == TENSORRT:
        with suppress(ImportError):
            import_module("tensorrt_libs")  # importing it loads them
    return "; ".join(line for line in said.getvalue().splitlines() if line.startswith("Failed"))


def _back_to_fp32(model: bytes) -> list[str]:
    """Return the nodes that turn int8 outputs of the graph into floats: inside a network the next block takes int8."""
    graph = onnx.load_from_string(model).graph
    outputs = {value.name for value in graph.output}
    return [node.name for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0] in outputs]


def _one_node() -> bytes:
    """Return the smallest model that every provider runs."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one_node", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())
