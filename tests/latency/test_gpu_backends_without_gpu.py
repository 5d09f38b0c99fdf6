"""Without a driver, every backend that needs a GPU says so in one line; none ends the process."""

import json
import subprocess
import sys

import pytest

from ofa_kit.latency.backends.nvidia import driver_facts
from tests.conftest import REPO

PROFILES = {
    "onnxruntime-cuda": {"backend": "onnxruntime", "provider": "CUDAExecutionProvider"},
    "onnxruntime-tensorrt": {"backend": "onnxruntime", "provider": "TensorrtExecutionProvider"},
    "tensorrt": {"backend": "tensorrt", "precision": "fp16"},
    "tensorrt-rtx": {"backend": "tensorrt-rtx"},
    "torch-cuda": {"backend": "torch-cuda", "launch": "cuda-graph"},
}
MAKE = """
import json, sys
from ofa_kit.errors import BackendError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile

assert "torch" not in sys.modules
try:
    backend_for(DeviceProfile(name="board", **json.loads(sys.argv[1])))
except BackendError as error:
    print(error)
"""
without_driver = pytest.mark.skipif(driver_facts() is not None, reason="this machine has an NVIDIA driver and a GPU")


@without_driver
@pytest.mark.parametrize("name", PROFILES)
def test_a_gpu_backend_without_a_driver_says_so_in_one_line(name: str) -> None:
    command = [sys.executable, "-c", MAKE, json.dumps(PROFILES[name])]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "device 'board'" in done.stdout
    if not name.startswith("onnxruntime"):
        assert "needs an NVIDIA GPU: no driver was found" in done.stdout


def test_the_driver_is_asked_without_loading_a_runtime() -> None:
    code = "import sys; from ofa_kit.latency.backends.nvidia import driver_facts; driver_facts();"
    code += "assert not {'torch', 'tensorrt', 'tensorrt_rtx', 'onnxruntime', 'cuda.bindings'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
