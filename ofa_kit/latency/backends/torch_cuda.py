"""PyTorch on an NVIDIA GPU: the calls that a network makes there, one by one or as one CUDA graph."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ofa_kit.errors import BackendError, UnknownNameError
from ofa_kit.latency.backends.nvidia import device_timer, require_driver
from ofa_kit.latency.backends.torch_graph import Tensor, TorchGraph
from ofa_kit.latency.device import DeviceProfile, Precision
from ofa_kit.latency.protocol import Timer

Array = NDArray[np.float32]
OPTIONS = {"memory_format": ("channels_last", "contiguous"), "tf32": ("on", "off")}
"""Options of a device profile and their values, the first of which is used where nothing is said."""
FIRST_RUNS = 3
"""Runs that choose kernels and take memory, so that a model that cannot run is refused when it is loaded."""


class TorchCudaBackend:
    """PyTorch with cuDNN, kernels chosen by timing; fp32 may compute products in TF32, as TensorRT does."""

    precisions: tuple[Precision, ...] = ("fp32", "fp16")

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self._options = {name: values[0] for name, values in OPTIONS.items()} | _checked(profile.options)
        driver = require_driver(f"device '{profile.name}'")
        self._torch = _torch(profile)
        self._stream = CudaStream(self._torch, tf32=self._options["tf32"] == "on")
        self.versions: Mapping[str, str] = {
            "torch": str(self._torch.__version__),
            "cuda": str(self._torch.version.cuda),
            "cudnn": str(self._torch.backends.cudnn.version()),
            "driver": driver.pop("driver"),
        }
        self.facts: Mapping[str, str] = driver
        self.timer: Timer = device_timer(self._stream.last_run_s)

    def load(self, model: bytes) -> "TorchCudaModel":
        """Return the model on the GPU, for a serialized fp32 ONNX model."""
        try:
            graph = TorchGraph(
                onnx.load_from_string(model),
                device="cuda",
                half=self.profile.precision == "fp16",
                channels_last=self._options["memory_format"] == "channels_last",
            )
            return TorchCudaModel(graph, self._stream, self.profile)
        except RuntimeError as error:  # memory, or what cuDNN has no kernel for
            raise BackendError(f"torch cannot run the model: {str(error).splitlines()[0]}") from error


class CudaStream:
    """A stream that is not the default one, the events around its last run, and the settings under which it runs."""

    def __init__(self, torch: Any, *, tf32: bool) -> None:
        self._torch, self._tf32 = torch, tf32
        self._stream = torch.cuda.Stream()
        self._start, self._end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def run(self, enqueue: Callable[[], object]) -> None:
        """Do the work of one inference and wait for its end."""
        with self._active():
            self._start.record(self._stream)
            enqueue()
            self._end.record(self._stream)
        self._stream.synchronize()

    def follow_uploads(self) -> None:
        """Let the next run wait for copies and conversions, which happen on the default stream."""
        self._stream.wait_stream(self._torch.cuda.default_stream())

    def capture(self, enqueue: Callable[[], object]) -> Callable[[], None]:
        """Return a launch of the CUDA graph that `enqueue` makes."""
        graph = self._torch.cuda.CUDAGraph()
        with self._active(), self._torch.cuda.graph(graph, stream=self._stream):
            enqueue()
        replay: Callable[[], None] = graph.replay
        return replay

    def last_run_s(self) -> float:
        """Return the seconds between the events around the last run."""
        return float(self._start.elapsed_time(self._end)) / 1e3

    @contextmanager
    def _active(self) -> Iterator[None]:
        torch = self._torch
        with (
            torch.no_grad(),
            torch.cuda.stream(self._stream),
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=self._tf32),
        ):
            yield


class TorchCudaModel:
    """A model with fixed random inputs; calling it runs one inference and waits for its end."""

    def __init__(self, graph: TorchGraph, stream: CudaStream, profile: DeviceProfile) -> None:
        self._graph, self._stream = graph, stream
        rng = np.random.default_rng(0)
        shapes = [(shape[0] or profile.batch, *shape[1:]) for shape in graph.inputs.values()]
        self._bound = [graph.tensor(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
        self._outputs: list[Tensor] = []
        self._launch: Callable[[], object] = self._enqueue
        stream.follow_uploads()
        for _ in range(FIRST_RUNS):
            self()
        if profile.launch == "cuda-graph":
            self._launch = stream.capture(self._enqueue)

    def __call__(self) -> None:
        self._stream.run(self._launch)

    def predict(self, batches: Iterable[Array]) -> Array:
        """Return the logits (N, classes) of image batches (n, C, R, R), each as large as the bound input."""
        (images,) = self._bound
        kept = images.clone()
        found = []
        try:
            for batch in batches:
                if tuple(batch.shape) != tuple(images.shape):
                    raise BackendError(f"the model takes images of shape {tuple(images.shape)}, found {batch.shape}")
                self._bind(images, self._graph.tensor(batch))
                self()
                found.append(self._outputs[0].float().cpu().numpy())
        finally:
            self._bind(images, kept)
        return np.concatenate(found)

    def _bind(self, images: Tensor, values: Tensor) -> None:
        images.copy_(values)
        self._stream.follow_uploads()

    def _enqueue(self) -> None:
        self._outputs = self._graph(*self._bound)


def _torch(profile: DeviceProfile) -> Any:
    """Return PyTorch with CUDA; a BackendError where it is missing or cannot use the GPU."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise BackendError(f"device '{profile.name}' needs package torch; run `pip install torch`") from error
    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        raise BackendError(
            f"device '{profile.name}': torch {torch.__version__} is built for {built} and cannot use the GPU; "
            "install a torch whose CUDA the driver supports"
        )
    return torch


def _checked(options: Mapping[str, str]) -> dict[str, str]:
    for name, value in options.items():
        if name not in OPTIONS:
            raise UnknownNameError("option of torch-cuda", name, OPTIONS)
        if value not in OPTIONS[name]:
            raise UnknownNameError(f"value of option {name}", value, OPTIONS[name])
    return dict(options)
