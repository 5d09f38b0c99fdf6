import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import REPO


def checked(timeout_s, **environment):
    """Run tools/gpu_check.py."""
    command = [sys.executable, REPO / "tools" / "gpu_check.py"]
    environment = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)


def test_without_a_gpu_the_checks_are_skipped_with_pytorchs_reason():
    done = checked(60, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: PyTorch finds no NVIDIA GPU: ")
    assert f"torch {torch.__version__}" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.gpu
def test_what_holds_on_cpu_holds_on_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip(checked(60).stdout.strip())
    done = checked(3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
