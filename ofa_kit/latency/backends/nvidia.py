"""NVIDIA's driver, asked through its C interface: which GPU there is, how fast it runs now, and a timer for it.

Runtimes made without a driver are null pointers whose first use ends the process, so the driver is asked first.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from typing import Any

from ofa_kit.errors import BackendError
from ofa_kit.latency.protocol import Runnable, Timer


def require_driver(what: str) -> dict[str, str]:
    """Return the facts of the first GPU; a BackendError that begins with `what` when there is none to use."""
    try:
        return _facts()
    except _NoGpuError as error:
        raise BackendError(
            f"{what} needs an NVIDIA GPU: {error}; choose another device (`ofa-kit devices`) or run this on a machine "
            "whose GPU `nvidia-smi` shows"
        ) from None


def driver_facts() -> dict[str, str] | None:
    """Return gpu, compute_capability and driver of the first GPU, clocks where they can be read; None without one."""
    try:
        return _facts()
    except _NoGpuError:
        return None


def device_timer(last_run_s: Callable[[], float]) -> Timer:
    """Return a timer whose floors are time on the GPU: `last_run_s` reads the CUDA events around the last run."""

    def timed(run: Runnable) -> tuple[float, float]:
        start_s = time.perf_counter()
        run()
        wall_s = time.perf_counter() - start_s
        return last_run_s(), wall_s

    return timed


class _NoGpuError(Exception):
    """Why there is no GPU to use."""


CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
SM_CLOCK, MEMORY_CLOCK = 1, 2  # nvmlClockType_t
SLOWED_BY = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
"""Bits of NVML's reasons for a clock below the highest."""


def _facts() -> dict[str, str]:
    cuda = _library("libcuda.so.1", "nvcuda.dll")
    if cuda is None:
        raise _NoGpuError("no driver was found")
    _ask(cuda, "cuInit", 0)
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _ask(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise _NoGpuError("the driver shows no GPU (is CUDA_VISIBLE_DEVICES empty?)")
    _ask(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    _ask(cuda, "cuDriverGetVersion", ctypes.byref(version))
    name, bus_id = ctypes.create_string_buffer(256), ctypes.create_string_buffer(64)
    _ask(cuda, "cuDeviceGetName", name, len(name), device)
    _ask(cuda, "cuDeviceGetPCIBusId", bus_id, len(bus_id), device)
    numbers = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        _ask(cuda, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        numbers.append(str(value.value))
    return {
        "gpu": name.value.decode(errors="replace"),
        "compute_capability": ".".join(numbers),
        "driver": f"CUDA {version.value // 1000}.{version.value % 1000 // 10}",
        **_management_facts(bus_id.value),
    }


def _management_facts(bus_id: bytes) -> dict[str, str]:
    """Return what NVML says of one GPU, {} where it says nothing (Jetson boards, containers without it)."""
    nvml = _library("libnvidia-ml.so.1", "nvml.dll")
    if nvml is None or nvml.nvmlInit_v2():
        return {}
    try:
        facts = {}
        text = ctypes.create_string_buffer(96)
        if not nvml.nvmlSystemGetDriverVersion(text, len(text)):
            facts["driver"] = text.value.decode(errors="replace")
        handle = ctypes.c_void_p()
        if not nvml.nvmlDeviceGetHandleByPciBusId_v2(ctypes.c_char_p(bus_id), ctypes.byref(handle)):
            facts |= _clocks(nvml, handle)
        return facts
    finally:
        nvml.nvmlShutdown()


def _clocks(nvml: Any, handle: ctypes.c_void_p) -> dict[str, str]:
    facts = {}
    now, highest, reasons = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_ulonglong()
    for name, kind in (("sm_clock", SM_CLOCK), ("memory_clock", MEMORY_CLOCK)):
        if not nvml.nvmlDeviceGetClockInfo(handle, kind, ctypes.byref(now)):
            facts[name] = f"{now.value} MHz"
            if not nvml.nvmlDeviceGetMaxClockInfo(handle, kind, ctypes.byref(highest)):
                facts[name] += f" of {highest.value}"
    if not nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle, ctypes.byref(reasons)):
        slowed = [text for bit, text in SLOWED_BY.items() if reasons.value & bit]
        facts["clocks_slowed_by"] = ", ".join(slowed) or "nothing"
    return facts


def _library(linux: str, windows: str) -> Any:
    """Return a library of the driver, None where it is not installed."""
    try:
        return ctypes.CDLL(windows if sys.platform == "win32" else linux)
    except OSError:
        return None


def _ask(cuda: Any, function: str, *arguments: Any) -> None:
    """Call a function of the driver; a _NoGpuError with the driver's own words when it fails."""
    result = getattr(cuda, function)(*arguments)
    if result:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(result, ctypes.byref(text))
        raise _NoGpuError(f"the driver says '{(text.value or b'unknown error').decode()}' ({function}: {result})")
