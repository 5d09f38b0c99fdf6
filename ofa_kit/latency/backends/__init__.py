"""Runtimes that load an ONNX model and run it."""

from ofa_kit.latency.backends.onnxruntime import OrtBackend
from ofa_kit.latency.device import DeviceProfile


def backend_for(profile: DeviceProfile) -> OrtBackend:
    """Return the backend of a device profile, ready to load models; a BackendError says what is missing."""
    return OrtBackend(profile)
