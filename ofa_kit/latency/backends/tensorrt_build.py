"""ONNX to a TensorRT plan: parse, configure, build. TensorRT 10, 11 and TensorRT-RTX differ in little here.

Networks are strongly typed: the types in the ONNX graph are the types that run, in every one of these versions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import onnx

from ofa_kit.errors import BackendError, UnknownNameError, some_of

OPTIONS = ("optimization_level", "workspace_mib", "tf32")
"""Options of a device profile that the builder takes."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How a plan is built."""

    compute_capability: str = ""
    """Of TensorRT-RTX, which builds for any GPU on any machine; TensorRT builds for the GPU it runs on."""
    options: Mapping[str, str] = field(default_factory=dict)
    detailed: bool = False
    """Whether the engine's layers can tell which ONNX nodes they stand for."""
    for_capture: bool = False
    """Whether a CUDA graph will be captured; TensorRT-RTX wants to know."""


def build_plan(
    trt: ModuleType, logger: Any, model: bytes, settings: BuildSettings, timings: bytes | None = None
) -> tuple[bytes, bytes | None]:
    """Return the plan of an ONNX model, and the timings of its kernels for the next build where `timings` was given.

    `timings` is what an earlier build returned, b"" for none yet, None for a runtime that has no such thing.
    """
    builder = trt.Builder(logger)
    network = _parsed(trt, builder, logger, model)
    config = _config(trt, builder, settings)
    if timings is not None:
        found = config.create_timing_cache(timings)
        # Timings of another GPU are refused here: then an empty cache starts.
        if not (found and config.set_timing_cache(found, False)):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"{named(trt)} cannot build the model: {some_of(logger.errors, 3) or 'it gives no reason'}")
    return bytes(plan), bytes(config.get_timing_cache().serialize()) if timings is not None else None


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return the model with its open batch size closed; a BackendError when another size is open."""
    for value in (*model.graph.input, *model.graph.output):
        first, *others = value.type.tensor_type.shape.dim
        if any(not dim.dim_value for dim in others):
            raise BackendError(f"'{value.name}' has an open size beside the batch; export the model at one resolution")
        if not first.dim_value:
            first.dim_value = batch
    return model


def quiet_logger(trt: ModuleType) -> Any:
    """Return a logger that prints nothing and keeps the lines of errors in `errors`."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


def named(trt: ModuleType) -> str:
    """Return name and version of the runtime, for messages."""
    return f"{'TensorRT-RTX' if trt.__name__ == 'tensorrt_rtx' else 'TensorRT'} {trt.__version__}"


def _parsed(trt: ModuleType, builder: Any, logger: Any, model: bytes) -> Any:
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise BackendError(_refusal(trt, parser))
    return network


def _refusal(trt: ModuleType, parser: Any) -> str:
    """Return one line that names the operator and the node that a parser stumbled over."""
    if not parser.num_errors:
        return f"{named(trt)} cannot parse the model and gives no reason"
    error = parser.get_error(0)
    why = " ".join(error.desc().split())
    if not error.node_operator():
        return f"{named(trt)} cannot parse the model: {why}"
    return (
        f"{named(trt)} does not support operator '{error.node_operator()}' as node '{error.node_name()}' uses it "
        f"({error.code().name.lower()}: {why}); run this model on another backend"
    )


def _config(trt: ModuleType, builder: Any, settings: BuildSettings) -> Any:
    config = builder.create_builder_config()
    if settings.compute_capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, settings.compute_capability), 0)
    if settings.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.for_capture and hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    for name, value in settings.options.items():
        if name == "optimization_level":
            config.builder_optimization_level = _number(name, value, 0, 5)
        elif name == "workspace_mib":
            size = _number(name, value, 1, 1 << 20) << 20
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
        elif name == "tf32":
            if value not in ("on", "off"):
                raise BackendError(f"option tf32 is on or off, found {value}")
            (config.set_flag if value == "on" else config.clear_flag)(trt.BuilderFlag.TF32)
        else:
            raise UnknownNameError("option of TensorRT", name, OPTIONS)
    return config


def _capability(trt: ModuleType, asked: str) -> Any:
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if asked not in known:
        raise BackendError(f"{named(trt)} builds for compute capability {', '.join(known)}; found {asked}")
    return known[asked]


def _number(name: str, value: str, least: int, most: int) -> int:
    if not value.isdecimal() or not least <= int(value) <= most:
        raise BackendError(f"option {name} is a number from {least} to {most}, found {value}")
    return int(value)
