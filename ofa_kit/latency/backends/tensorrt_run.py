"""A TensorRT engine at work: tensors bound to buffers on the GPU, one launch a call, and the times of its layers."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_kit.errors import BackendError, some_of
from ofa_kit.latency.backends.cuda_stream import Stream
from ofa_kit.latency.backends.tensorrt_build import named

Array = NDArray[np.float32]
FIRST_RUNS = 3
"""Runs that finish what loading put off, so that a CUDA graph holds none of it and a failure comes at once."""
LAYER_WARMUP_RUNS = 5


class TensorRtModel:
    """An engine with fixed random inputs; calling it runs one inference and waits for its end."""

    def __init__(self, trt: ModuleType, engine: Any, logger: Any, stream: Stream, *, as_graph: bool = False) -> None:
        self._trt, self._engine, self._logger, self._stream = trt, engine, logger, stream
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"{named(trt)} cannot run the engine: {self._reason()}")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names]
        self._inputs = [name for name, is_input in zip(names, inputs, strict=True) if is_input]
        self._outputs = [name for name, is_input in zip(names, inputs, strict=True) if not is_input]
        self._buffers = {name: stream.allocate(self._empty(name).nbytes) for name in names}
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.address)
        self._fill()
        for _ in range(FIRST_RUNS):
            stream.run(self._enqueue)
        self._launch = self._captured() if as_graph else self._enqueue

    def __call__(self) -> None:
        self._stream.run(self._launch)

    def predict(self, batches: Iterable[Array]) -> Array:
        """Return the logits (N, classes) of image batches (n, C, R, R), each as large as the engine's input."""
        (images,), logits = self._inputs, self._outputs[0]
        found = []
        try:
            for batch in batches:
                bound, answer = self._empty(images), self._empty(logits)
                if batch.shape != bound.shape:
                    raise BackendError(f"the engine takes images of shape {bound.shape}, found {batch.shape}")
                bound[...] = batch
                self._stream.upload(bound, self._buffers[images])
                self()
                self._stream.download(self._buffers[logits], answer)
                found.append(answer.astype(np.float32))
        finally:
            self._fill()
        return np.concatenate(found)

    def layer_times_ms(self, runs: int, on_run: Callable[[], None]) -> dict[str, list[float]]:
        """Return milliseconds by engine layer, one a run, warm-up left out; the layers carry their nodes' names."""
        trt = self._trt
        times: dict[str, list[float]] = defaultdict(list)

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[layer_name].append(ms)

        self._profiler = Profiler()  # TensorRT does not keep it alive
        self._context.profiler = self._profiler
        for run in range(LAYER_WARMUP_RUNS + runs):
            if run == LAYER_WARMUP_RUNS:
                times.clear()
            self._stream.run(self._enqueue)
            on_run()
        nodes = node_names(self._layers())
        return {nodes.get(name, name): values for name, values in times.items()}

    def _layers(self) -> list[Any]:
        inspector = self._engine.create_engine_inspector()
        found: list[Any] = json.loads(
            inspector.get_engine_information(self._trt.LayerInformationFormat.JSON), strict=False
        )["Layers"]
        return found

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(f"{named(self._trt)} failed to run the engine: {self._reason()}")

    def _captured(self) -> Callable[[], None]:
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._stream.handle):
            raise BackendError(f"{named(self._trt)} cannot put this model in a CUDA graph; set launch: eager")
        return self._stream.capture(self._enqueue)

    def _fill(self) -> None:
        rng = np.random.default_rng(0)
        for name in self._inputs:
            values = self._empty(name)
            values[...] = rng.standard_normal(values.shape, dtype=np.float32)
            self._stream.upload(values, self._buffers[name])

    def _empty(self, name: str) -> NDArray[Any]:
        """Return an array of a tensor's shape and type."""
        shape = tuple(self._engine.get_tensor_shape(name))
        return np.empty(shape, self._trt.nptype(self._engine.get_tensor_dtype(name)))

    def _reason(self) -> str:
        return some_of(self._logger.errors[-3:]) or "it gives no reason"


def node_names(layers: Iterable[Mapping[str, Any] | str]) -> dict[str, str]:
    """Return for each engine layer the ONNX nodes it stands for: 'b3/expand + b3/expand_act (name of the layer)'.

    Fused layers carry names of the compiler's making and list their nodes beside it. Conversions between layouts at
    the engine's inputs and outputs stand for no node.
    """
    found = {}
    for layer in layers:
        if isinstance(layer, str):
            continue  # names only: the engine was built without details
        nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", "")))
        if nodes:
            found[str(layer["Name"])] = f"{' + '.join(nodes)} ({layer['Name']})"
    return found
