"""A CUDA stream of its own with buffers, events and graphs, through cuda-bindings or pycuda, whichever is installed."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from numpy.typing import NDArray

from ofa_kit.errors import BackendError

Enqueue = Callable[[], None]
"""Puts the work of one inference on the stream, without waiting for it."""


class Buffer:
    """Memory on the GPU, freed with the object."""

    def __init__(self, address: int, size: int, free: Callable[[], object]) -> None:
        self.address = address
        self.size = size
        # At exit the driver frees everything, and may be gone before this object is.
        weakref.finalize(self, free).atexit = False


class Stream(ABC):
    """A stream that is not the default one; two events lie around the last run."""

    package: str
    """The Python package that calls CUDA."""
    handle: int

    @property
    def versions(self) -> dict[str, str]:
        """Version of the package, by its name."""
        return {self.package: metadata.version(self.package)}

    def run(self, enqueue: Enqueue) -> None:
        """Do the work of one inference and wait for its end."""
        self._record(0)
        enqueue()
        self._record(1)
        self.synchronize()

    @abstractmethod
    def last_run_s(self) -> float:
        """Return the seconds between the events around the last run."""

    @abstractmethod
    def allocate(self, size: int) -> Buffer:
        """Return a buffer of `size` bytes."""

    @abstractmethod
    def upload(self, array: NDArray[Any], buffer: Buffer) -> None:
        """Copy a contiguous array into a buffer and wait for it."""

    @abstractmethod
    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copy a buffer into a contiguous array and wait for it."""

    @abstractmethod
    def capture(self, enqueue: Enqueue) -> Enqueue:
        """Return a launch of the CUDA graph that `enqueue` makes on this stream."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all work on the stream."""

    @abstractmethod
    def _record(self, event: int) -> None: ...


def open_stream(what: str) -> Stream:
    """Return a stream on the first GPU; a BackendError that begins with `what` when no package can call CUDA."""
    if _installed("cuda.bindings"):
        return BindingsStream()
    if _installed("pycuda"):
        return PycudaStream()
    raise BackendError(f"{what} needs package cuda-bindings or pycuda to run; run `pip install cuda-bindings`")


class BindingsStream(Stream):
    """CUDA's runtime through NVIDIA's package cuda-bindings."""

    package = "cuda-bindings"

    def __init__(self) -> None:
        self._cuda = import_module("cuda.bindings.runtime")
        self._stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self._events = (self._call("cudaEventCreate"), self._call("cudaEventCreate"))
        self.handle = int(self._stream)

    def last_run_s(self) -> float:
        return float(self._call("cudaEventElapsedTime", *self._events)) / 1e3

    def allocate(self, size: int) -> Buffer:
        address = int(self._call("cudaMalloc", size))
        return Buffer(address, size, lambda: self._cuda.cudaFree(address))

    def upload(self, array: NDArray[Any], buffer: Buffer) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", buffer.address, array.ctypes.data, array.nbytes, kind, self._stream)
        self.synchronize()

    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, buffer.address, array.nbytes, kind, self._stream)
        self.synchronize()

    def capture(self, enqueue: Enqueue) -> Enqueue:
        self._call(
            "cudaStreamBeginCapture", self._stream, self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        try:
            enqueue()
        except BackendError:
            self._cuda.cudaStreamEndCapture(self._stream)
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        launchable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)

        def launch() -> None:
            self._call("cudaGraphLaunch", launchable, self._stream)

        weakref.finalize(launch, self._cuda.cudaGraphExecDestroy, launchable).atexit = False
        return launch

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def _record(self, event: int) -> None:
        self._call("cudaEventRecord", self._events[event], self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Return what a function of the runtime gives; cuda-bindings answers (error, value), and never raises."""
        error, *values = getattr(self._cuda, function)(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            text = self._cuda.cudaGetErrorString(error)[1].decode()
            raise BackendError(f"CUDA failed in {function}: {text}")
        return values[0] if values else None


class PycudaStream(Stream):
    """CUDA's driver through package pycuda; it has no graphs."""

    package = "pycuda"

    def __init__(self) -> None:
        import_module("pycuda.autoprimaryctx")  # the context that TensorRT uses as well
        self._cuda = import_module("pycuda.driver")
        self._stream = self._cuda.Stream()
        self._events = (self._cuda.Event(), self._cuda.Event())
        self.handle = int(self._stream.handle)

    def last_run_s(self) -> float:
        return float(self._events[0].time_till(self._events[1])) / 1e3

    def allocate(self, size: int) -> Buffer:
        try:
            memory = self._cuda.mem_alloc(size)
        except self._cuda.MemoryError as error:
            raise BackendError(f"CUDA has no {size / 2**20:.1f} MiB left on the GPU") from error
        return Buffer(int(memory), size, memory.free)

    def upload(self, array: NDArray[Any], buffer: Buffer) -> None:
        self._cuda.memcpy_htod(buffer.address, array)
        self._cuda.Context.synchronize()

    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        self._cuda.memcpy_dtoh(array, buffer.address)

    def capture(self, enqueue: Enqueue) -> Enqueue:
        raise BackendError("launch: cuda-graph needs package cuda-bindings, found pycuda; pip install cuda-bindings")

    def synchronize(self) -> None:
        self._stream.synchronize()

    def _record(self, event: int) -> None:
        self._events[event].record(self._stream)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False
