"""What identifies the machine that measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def fingerprint() -> dict[str, str]:
    """Return processor, cores, machine, system and memory; the frequency governor where there is one."""
    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "memory_gib": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f}",
    }
    governor = _content(GOVERNOR)
    return {**found, "governor": governor} if governor else found


def _processor() -> str:
    for line in _content(Path("/proc/cpuinfo")).splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.split(":", 1)[1].strip()
    # 64-bit ARM names no model there, but the device tree names the board.
    return _content(DEVICE_TREE_MODEL) or platform.processor() or "unknown"


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""
