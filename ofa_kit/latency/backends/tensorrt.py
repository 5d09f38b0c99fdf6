"""TensorRT and TensorRT-RTX: engines built from ONNX, kept in a cache, run with bound buffers."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import onnx

from ofa_kit.errors import BackendError, some_of
from ofa_kit.graphs.precision import in_precision
from ofa_kit.latency.backends.cuda_stream import Stream, open_stream
from ofa_kit.latency.backends.engine_cache import EngineCache, Key, model_digest
from ofa_kit.latency.backends.nvidia import device_timer, require_driver
from ofa_kit.latency.backends.tensorrt_build import BuildSettings, build_plan, named, quiet_logger, with_batch
from ofa_kit.latency.backends.tensorrt_run import Array, TensorRtModel
from ofa_kit.latency.device import DeviceProfile, Precision
from ofa_kit.latency.protocol import Timer, timer


@dataclass(frozen=True)
class Engine:
    """A built engine."""

    plan: bytes
    from_cache: bool
    build_s: float
    """Seconds that building took, or reading it from the cache."""


class TensorRtBackend:
    """NVIDIA's TensorRT on the GPU of this machine.

    Building chooses kernels by timing them and so never gives the same engine twice: engines are kept in a cache, and
    the kernels' times beside them for the next build.
    """

    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    module = "tensorrt"
    name = "tensorrt"
    package = "tensorrt"
    plans_captures = False
    """Whether an engine must be built for being captured in a CUDA graph."""

    def __init__(
        self,
        profile: DeviceProfile,
        *,
        cache_folder: Path | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self.profile = profile
        self.cache = EngineCache(cache_folder, on_warning)
        self._driver = self._ask_driver()
        self._trt = self._import()
        self._stream = open_stream(f"device '{profile.name}'") if self._driver else None
        self.versions: Mapping[str, str] = {self.name: self._trt.__version__, **self._driver_versions()}
        self.facts: Mapping[str, str] = {key: value for key, value in self._driver.items() if key != "driver"}
        self.timer: Timer = device_timer(self._stream.last_run_s) if self._stream else timer(time.perf_counter)

    def load(self, model: bytes) -> "TensorRtModel | ForeignEngine":
        """Return the engine of a serialized fp32 ONNX model, in the profile's precision."""
        if self._stream is None:
            self.build(model)
            return ForeignEngine(self.profile)
        return self._loaded(model, self._stream)

    def build(self, model: bytes, *, detailed: bool = False, anew: bool = False) -> Engine:
        """Return the engine from the cache, or build it; `anew` builds it in any case.

        `detailed` engines know which nodes their layers stand for. A model with int8 pairs in it stays as it is.
        """
        start_s = time.perf_counter()
        source = with_batch(onnx.load_from_string(model), self.profile.batch)
        if not any(node.op_type == "QuantizeLinear" for node in source.graph.node):
            source = in_precision(source, self.profile.precision, "tensorrt")
        settings = self._settings(detailed)
        key = self._key(model_digest(source, keep_names=detailed), settings)
        plan = None if anew else self.cache.load(key)
        from_cache = plan is not None
        if plan is None:
            plan = self._build(source.SerializeToString(), settings)
            self.cache.store(key, plan)
        return Engine(plan, from_cache, time.perf_counter() - start_s)

    def kernel_times_ms(
        self, model: bytes, runs: int, on_run: Callable[[], None] = lambda: None
    ) -> dict[str, list[float]]:
        """Return milliseconds by the names of the nodes that a layer stands for, one a run, warm-up left out."""
        if self._stream is None:
            raise _runs_elsewhere(self.profile)
        return self._loaded(model, self._stream, detailed=True).layer_times_ms(runs, on_run)

    def _loaded(self, model: bytes, stream: Stream, *, detailed: bool = False) -> TensorRtModel:
        logger = quiet_logger(self._trt)
        runtime = self._trt.Runtime(logger)
        engine = self.build(model, detailed=detailed)
        found = runtime.deserialize_cuda_engine(engine.plan)
        if found is None and engine.from_cache:
            found = runtime.deserialize_cuda_engine(self.build(model, detailed=detailed, anew=True).plan)
        if found is None:
            raise BackendError(f"{named(self._trt)} cannot load the engine: {some_of(logger.errors[-3:])}")
        as_graph = self.profile.launch == "cuda-graph" and not detailed
        return TensorRtModel(self._trt, found, logger, stream, as_graph=as_graph)

    def _settings(self, detailed: bool) -> BuildSettings:
        return BuildSettings(
            compute_capability=self._built_for(),
            options=self.profile.options,
            detailed=detailed,
            for_capture=self.plans_captures and self.profile.launch == "cuda-graph" and not detailed,
        )

    def _key(self, digest: str, settings: BuildSettings) -> Key:
        return Key(
            kind="engine",
            target=self._target(),
            built_by=self._built_by(),
            model=digest,
            precision=self.profile.precision,
            options={
                **settings.options,
                "runtime": self.name,
                "detailed": str(settings.detailed),
                "for_capture": str(settings.for_capture),
            },
        )

    def _build(self, model: bytes, settings: BuildSettings) -> bytes:
        """Build with the kernel times of earlier builds, and keep the new ones."""
        key = Key(kind="timing", target=self._target(), built_by=self._built_by(), options={"runtime": self.name})
        plan, timings = build_plan(
            self._trt, quiet_logger(self._trt), model, settings, timings=self.cache.load(key) or b""
        )
        if timings:
            self.cache.store(key, timings)
        return plan

    def _ask_driver(self) -> dict[str, str]:
        """Return the driver's facts, {} where engines are only built; a BackendError when what is asked cannot be."""
        if self.profile.compute_capability:
            raise BackendError(
                f"device '{self.profile.name}': TensorRT builds for the GPU it runs on, found compute_capability "
                f"{self.profile.compute_capability}; leave it out or set backend: tensorrt-rtx"
            )
        return require_driver(f"device '{self.profile.name}'")

    def _import(self) -> ModuleType:
        try:
            return import_module(self.module)
        except (ImportError, OSError) as error:  # OSError: the package without its libraries
            raise BackendError(
                f"device '{self.profile.name}' needs package {self.package}, which cannot be imported "
                f"({error}); run `pip install {self.package}`"
            ) from error

    def _driver_versions(self) -> dict[str, str]:
        return {"driver": self._driver["driver"], **self._stream.versions} if self._stream else {}

    def _built_for(self) -> str:
        """Return the compute capability that the builder is told, '' for none."""
        return ""

    def _target(self) -> str:
        return f"{self._driver['gpu']} {self._driver['compute_capability']}"

    def _built_by(self) -> str:
        return f"{named(self._trt)}, driver {self._driver['driver']}"


class TensorRtRtxBackend(TensorRtBackend):
    """TensorRT-RTX, whose engines are finished on the GPU that loads them.

    They can be built on any machine for one compute capability, without a GPU; it has no use for kernel times.
    """

    module = "tensorrt_rtx"
    name = "tensorrt-rtx"
    package = "tensorrt-rtx-cu13"
    plans_captures = True

    def _ask_driver(self) -> dict[str, str]:
        return {} if self.profile.compute_capability else require_driver(f"device '{self.profile.name}'")

    def _build(self, model: bytes, settings: BuildSettings) -> bytes:
        return build_plan(self._trt, quiet_logger(self._trt), model, settings)[0]

    def _built_for(self) -> str:
        return self.profile.compute_capability or self._driver["compute_capability"]

    def _target(self) -> str:
        return self._built_for()

    def _built_by(self) -> str:
        return named(self._trt)


class ForeignEngine:
    """An engine that was built for another GPU: it cannot run here."""

    def __init__(self, profile: DeviceProfile) -> None:
        self._profile = profile

    def __call__(self) -> None:
        raise _runs_elsewhere(self._profile)

    def predict(self, batches: Iterable[Array]) -> Array:
        """Refuse as a call does."""
        raise _runs_elsewhere(self._profile)


def _runs_elsewhere(profile: DeviceProfile) -> BackendError:
    return BackendError(
        f"device '{profile.name}' builds engines for compute capability {profile.compute_capability}, which do not "
        "run here; take compute_capability out of the profile on the machine with that GPU"
    )
