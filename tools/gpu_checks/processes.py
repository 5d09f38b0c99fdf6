"""Processes: torchrun with one process, the collectives of the GPU backend, two processes that train as one.

ofa-kit gives the process with LOCAL_RANK n the GPU n and lets GPUs talk over nccl, which refuses two processes on one
GPU. Where there is one GPU, worker.py therefore builds the team by hand: both processes on that GPU, over gloo, which
carries GPU tensors by way of the host.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gpu_checks.common import Result, Sizes, difference
from gpu_checks.precision import weights_differ
from torch import distributed

from ofa_kit.arch.presets import preset
from ofa_kit.data.sources import open_dataset
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.supernet.sync_batch_norm import synchronize_batch_norm
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.rules import Sandwich
from ofa_kit.training.run import Run
from ofa_kit.training.step import Step

WORKER = Path(__file__).with_name("worker.py")
VALUES: dict[str, object] = {"space": "mbv3-tiny", "data": "digits", "batch_size": 128, "precision": "fp64"}
VALUES |= {"lr": 0.05, "calibration_images": 100, "validation_images": 50}
TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-9
LIMIT_S = 900


def processes(device: torch.device, sizes: Sizes) -> Iterator[Result]:
    """Compare runs on digits in fp64, the same seed."""
    values = VALUES | {"accelerator": device.type} | sizes.training
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = train_by_command([], folder / "alone", values)
        one = train_by_command(torchrun(1, "-m", "ofa_kit"), folder / "one", values)
        yield _equal("torchrun, one process", "the process group is left out", one, alone)
        yield collectives(device)
        if device.type == "cuda" and torch.cuda.device_count() > 1:
            two = train_by_command(torchrun(2, "-m", "ofa_kit"), folder / "two", values)
            yield _equal("torchrun, two processes", "two GPUs, nccl", two, alone)
        else:
            two = train_by_worker(2, folder / "shared", values)
            where = "one GPU for both" if device.type == "cuda" else "cpu"
            yield _equal("two processes", f"{where}, gloo", two, alone)


def collectives(device: torch.device) -> Result:
    """Compare gradients with batch norm over a process group of one with plain ones: the backend's own collectives."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        expected, found = gradients(device, synchronized=False), gradients(device, synchronized=True)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
    worst = difference(found, expected)
    return Result(
        f"batch norm over {backend}",
        worst <= GRADIENT_TOLERANCE,
        f"one process, gradients of a sandwich step differ from plain ones by {worst:.1e} "
        f"(at most {GRADIENT_TOLERANCE:g})",
    )


def gradients(device: torch.device, *, synchronized: bool) -> torch.Tensor:
    """Return all gradients of one sandwich step in fp64."""
    recipe = Recipe.parse(VALUES, "gpu_check")
    space = preset(recipe.space)
    supernet = Supernet(space).to(device, torch.float64).train()
    if synchronized:
        synchronize_batch_norm(supernet)
    size = max(space.resolutions)
    shape = (16, space.in_channels, size, size)
    images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.arange(16, device=device) % space.num_classes
    passes = Sandwich(space, 1).passes(np.random.default_rng(0), lambda arch: 0.0)
    Step(supernet, recipe, device).add_gradients(images, labels, passes, noise_seed=0)
    return torch.cat([p.grad.flatten() for p in supernet.parameters() if p.grad is not None])


def torchrun(count: int, *program: str) -> list[str]:
    """Return the start of a command that runs a program in several processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone"]
    return [*launcher, *program]


def train_by_command(launcher: list[str], folder: Path, values: dict[str, object]) -> Run:
    """Train as a user does."""
    settings = [f"--set={key}={value}" for key, value in values.items()]
    program = launcher or [sys.executable, "-m", "ofa_kit"]
    _run([*program, "train-supernet", "--name", str(folder), *settings])
    return Run.open(folder)


def train_by_worker(count: int, folder: Path, values: dict[str, object]) -> Run:
    """Train in processes that share the device."""
    recipe = Recipe.parse(values, "gpu_check")
    Run.create(folder, recipe, open_dataset(recipe.data, photo_size=32).info)
    _run([*torchrun(count, str(WORKER)), str(folder), recipe.accelerator])
    return Run.open(folder)


def _run(command: list[str]) -> None:
    """Run a command to its end; a RuntimeError holds the end of what it printed."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            printed, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends its workers when it is asked to, not when it is killed
            raise
    if process.returncode:
        raise RuntimeError(f"'{' '.join(command[1:6])} ...' ended with {process.returncode}: {printed[-400:]}")


def _equal(name: str, how: str, found: Run, expected: Run) -> Result:
    worst = weights_differ(found, expected)
    figures = f"{how}; weights differ from the run without torchrun by {worst:.1e} (at most {TOLERANCE:g})"
    return Result(name, worst <= TOLERANCE, figures)
