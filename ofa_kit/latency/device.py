"""DeviceProfile: what is timed and how, read from profiles/devices/*.yaml; and the fingerprint of this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ofa_kit.config import find_profile, parse, profile_names, read_yaml
from ofa_kit.errors import RecipeError
from ofa_kit.latency.protocol import TimingProtocol

BackendName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "torch-cuda", "imported"]
"""`imported`: a device that is known by its tables alone."""
Precision = Literal["fp32", "fp16", "int8"]
MADE_BY = ("backend", "provider", "precision", "batch", "threads", "launch", "compute_capability", "options")
"""Fields that decide what is timed: tables of profiles that differ in one of them are not compared."""


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """One way to run networks on one device."""

    name: str
    backend: BackendName
    provider: str = "CPUExecutionProvider"
    """ONNX Runtime execution provider; never silently replaced by another."""
    precision: Precision = "fp32"
    batch: int = 1
    threads: int = 1
    launch: Literal["eager", "cuda-graph"] = "eager"
    """How a GPU gets its kernels: one by one, or as one captured CUDA graph."""
    compute_capability: str = ""
    """Build TensorRT-RTX engines for this one, such as 8.9, instead of the GPU's own; they do not run here then."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Passed on to the runtime: provider options of ONNX Runtime (session entries on CPU), properties of OpenVINO."""
    subnets: int = 24
    """Whole subnets measured to calibrate the block table."""
    protocol: TimingProtocol = field(default_factory=TimingProtocol)
    """What differs from the usual rounds and tolerances."""
    clocks: str = ""
    """Free text: how the clocks were set, such as `locked at 1410 MHz`."""
    description: str = ""

    @property
    def on_cpu(self) -> bool:
        """Whether models run on this machine's processor."""
        return self.backend in ("onnxruntime", "openvino") and self.provider == "CPUExecutionProvider"

    @property
    def table_folder(self) -> Path:
        """Folder of this profile's tables, relative to the tables root."""
        return Path(self.name) / f"{self.backend}-{self.precision}-bs{self.batch}"

    @classmethod
    def load(cls, name: str) -> "DeviceProfile":
        """Read a profile by name or file; an OfaKitError says what is known."""
        path = find_profile("devices", "device", name)
        profile = parse(cls, read_yaml(path), str(path))
        if min(profile.batch, profile.threads, profile.subnets) < 1:
            raise RecipeError(f"{path}: batch, threads and subnets must be at least 1, found {profile}")
        return profile


def device_names() -> list[str]:
    """Return the names of all device profiles found."""
    return profile_names("devices")
