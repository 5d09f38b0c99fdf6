"""doctor: what this machine has, and what each backend could do now."""

import importlib.metadata
import platform
import sys

from ofa_kit.config import shipped_profiles
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.backends.nvidia import driver_facts
from ofa_kit.latency.board.runner.machine import fingerprint
from ofa_kit.latency.device import DeviceProfile, device_names

PACKAGES = (
    *("ofa-kit", "torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "scikit-learn", "pandas"),
    *("matplotlib", "openvino", "tensorrt", "tensorrt-rtx-cu13", "cuda-bindings", "pycuda", "tensorboard"),
)


def doctor() -> dict[str, dict[str, str]]:
    """Return sections of facts; a value that starts with 'missing' or 'cannot' says what to do."""
    return {
        "machine": {
            "python": f"{platform.python_version()} ({sys.executable})",
            **fingerprint(),
            **(driver_facts() or {"gpu": "none: no NVIDIA driver was found"}),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": {name: _device(name) for name in device_names()},
        "profiles": {"folder": str(shipped_profiles())},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _device(name: str) -> str:
    if _version("onnxruntime") != "missing" and _version("onnxruntime-gpu") != "missing":
        return "cannot run: onnxruntime and onnxruntime-gpu overwrite each other; uninstall both, install one"
    try:
        backend = backend_for(DeviceProfile.load(name))
    except OfaKitError as error:
        return f"cannot run: {error}"
    return "ready: " + ", ".join(f"{package} {found}" for package, found in backend.versions.items())
