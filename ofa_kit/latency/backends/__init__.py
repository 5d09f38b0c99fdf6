"""Runtimes that load an ONNX model and run it; each is imported when a device profile asks for it."""

from importlib import import_module

from ofa_kit.errors import BackendError
from ofa_kit.latency.backends.backend import Backend
from ofa_kit.latency.device import DeviceProfile

BACKENDS = {
    "onnxruntime": ("onnxruntime", "ort_backend"),
    "openvino": ("openvino", "OpenVinoBackend"),
    "tensorrt": ("tensorrt", "TensorRtBackend"),
    "tensorrt-rtx": ("tensorrt", "TensorRtRtxBackend"),
    "torch-cuda": ("torch_cuda", "TorchCudaBackend"),
}
"""Module of this package and class, by the name that device profiles use."""


def backend_for(profile: DeviceProfile) -> Backend:
    """Return the backend of a device profile, ready to load models; a BackendError says what is missing."""
    if profile.backend == "imported":
        raise BackendError(
            f"device '{profile.name}' is known by imported tables alone: nothing can be measured on it here"
        )
    module, name = BACKENDS[profile.backend]
    found: Backend = getattr(import_module(f"{__name__}.{module}"), name)(profile)
    if profile.precision not in found.precisions:
        known = ", ".join(found.precisions)
        raise BackendError(f"device '{profile.name}': {profile.backend} runs {known}, found {profile.precision}")
    return found
