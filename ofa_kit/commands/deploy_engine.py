"""The TensorRT engine of a deployment, where TensorRT is what the device runs."""

from dataclasses import dataclass

import onnx

from ofa_kit.commands.deploy_conversion import ON_TENSORRT
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, and the runtime and GPU that it is for: it loads nowhere else."""

    plan: bytes
    made_by: dict[str, str]


def build_engine(model: onnx.ModelProto, device: DeviceProfile) -> BuiltEngine | None:
    """Return the engine of a model in the device's precision; None where the device does not run TensorRT."""
    if device.backend not in ON_TENSORRT:
        return None
    from ofa_kit.latency.backends.tensorrt import TensorRtBackend

    backend = backend_for(device)
    assert isinstance(backend, TensorRtBackend)
    built_for = {"compute_capability": device.compute_capability} if device.compute_capability else {}
    return BuiltEngine(
        backend.build(model.SerializeToString()).plan, {**backend.versions, **backend.facts, **built_for}
    )


def refuse_preprocessing_on_tensorrt(device: DeviceProfile) -> None:
    """Raise an OfaKitError where the device's runtime takes images of one size alone."""
    if device.backend in ON_TENSORRT or device.provider.startswith("Tensorrt"):
        raise OfaKitError(
            f"device '{device.name}' runs TensorRT, which takes images of one size; leave --embed-preprocessing out: "
            "the steps are in the model's metadata"
        )
