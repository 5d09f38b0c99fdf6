"""DeviceProfile: what is timed and how, read from profiles/devices/*.yaml; and the fingerprint of this machine."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ofa_kit.config import find_profile, parse, profile_names, read_yaml
from ofa_kit.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """One way to run networks on one device."""

    name: str
    backend: Literal["onnxruntime"]
    provider: str = "CPUExecutionProvider"
    """ONNX Runtime execution provider; never silently replaced by another."""
    precision: Literal["fp32"] = "fp32"
    batch: int = 1
    threads: int = 1
    subnets: int = 24
    """Whole subnets measured to calibrate the block table."""
    description: str = ""

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


def fingerprint() -> dict[str, str]:
    """Return what identifies this machine in a table: processor, cores, system, memory."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "memory_gib": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
