"""Speed: training steps in two memory layouts, and beside MIT's package `ofa`; printed, not judged.

A step is forward, backward and update (SGD with momentum, fused) of one subnet on one batch of noise. fp32 is PyTorch's
default, which computes convolutions on GPU in TF32.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from gpu_checks.common import Action, Result, Sizes, medians_ms, peak_mib
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.optimizer import make_optimizer
from ofa_kit.training.recipe import Recipe

SPACE = "ofa-mbv3-w1.0"
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
PEER = "ofa"
INSTALL = "pip install 'ofa-kit[bench]'"
Forward = Callable[[Tensor, ArchConfig], Tensor]


class Trainer:
    """A network with an optimizer of its own."""

    def __init__(self, net: nn.Module, forward: Forward, half: torch.dtype | None = None) -> None:
        self.net, self.forward, self.half = net.train(), forward, half
        self.optimizer = make_optimizer(net, Recipe(space=SPACE, lr=1e-4))

    def step(self, images: Tensor, labels: Tensor, arch: ArchConfig) -> None:
        """Train one subnet on one batch."""
        self.optimizer.zero_grad()
        with self._autocast(images.device.type):
            loss = F.cross_entropy(self.forward(images, arch).float(), labels)
        loss.backward()
        self.optimizer.step()

    def kept_mib(self) -> float:
        """Return the memory of weights, statistics and momentum."""
        parameters = sum(p.numel() * p.element_size() for p in self.net.parameters())
        return (2 * parameters + sum(b.numel() * b.element_size() for b in self.net.buffers())) / 2**20

    def _autocast(self, kind: str) -> AbstractContextManager[None]:
        return torch.autocast(kind, self.half, enabled=self.half is not None)


def layout(device: torch.device, sizes: Sizes) -> Iterator[Result]:
    """Time the same subnets in both memory layouts, fp32 and bf16."""
    archs = _archs(sizes, sizes.resolutions[0])
    del archs["smallest"]
    images, labels = _batch(sizes, sizes.resolutions[0], device)
    for title, half in (("fp32", None), ("bf16", torch.bfloat16)):
        trainers = [_in_layout(kept, device, half) for kept in LAYOUTS.values()]
        for name, group in archs.items():
            found_ms = [medians_ms(_steps(trainers, images, labels, arch), device, sizes) for arch in group]
            speeds = [sizes.batch_size * len(group) / sum(column) * 1e3 for column in zip(*found_ms, strict=True)]
            named = ", ".join(f"{kept} {speed:.0f}" for kept, speed in zip(LAYOUTS, speeds, strict=True))
            yield Result(
                f"{title} {name}",
                bool(np.isfinite(speeds).all()),
                f"{len(group)} subnets, {sizes.batch_size} x {sizes.resolutions[0]} px, images/s: {named}: "
                f"{speeds[0] / speeds[1]:.2f} times as fast",
            )


def peer(device: torch.device, sizes: Sizes) -> Iterator[Result]:
    """Time the same subnets in our supernet and in MIT's, each as it comes: ours in channels_last, its contiguous."""
    if importlib.util.find_spec(PEER) is None:
        yield Result("training step", True, f"skipped: the public package `{PEER}` is missing; {INSTALL}")
        return
    from bench.ofa_peer import activate, peer_networks

    space = preset(SPACE)
    ours, other = Supernet(space).to(device), peer_networks()[SPACE]().to(device)

    def activated(images: Tensor, arch: ArchConfig) -> Tensor:
        activate(other, space, arch)
        found: Tensor = other(images)
        return found

    trainers = [Trainer(ours, ours), Trainer(other, activated)]
    for resolution in sizes.resolutions:
        images, labels = _batch(sizes, resolution, device)
        for name, group in _archs(sizes, resolution).items():
            steps = [_steps(trainers, images, labels, arch) for arch in group]
            found_ms = [medians_ms(pair, device, sizes) for pair in steps]
            yield Result(
                f"{resolution} px {name}",
                bool(np.isfinite(found_ms).all()),
                _beside(trainers, [list(column) for column in zip(*found_ms, strict=True)], steps, device, sizes),
            )


def _beside(
    trainers: list[Trainer], times_ms: list[list[float]], steps: list[list[Action]], device: torch.device, sizes: Sizes
) -> str:
    """Return mean times, their ratio (median over subnets) and the highest peaks of memory."""
    ours_ms, theirs_ms = (sum(column) / len(column) for column in times_ms)
    ratio = median(theirs / own for own, theirs in zip(*times_ms, strict=True))
    text = f"{len(steps)} subnets, batch {sizes.batch_size}: ours {ours_ms:.2f} ms, `{PEER}` {theirs_ms:.2f} ms a step"
    text += f", {ratio:.2f} times as fast"
    if device.type != "cuda":
        return text
    peaks = []
    for index, trainer in enumerate(trainers):
        for each in trainers:
            each.optimizer.zero_grad()
        # What the other network keeps does not count: a peak is what this one keeps and what its step adds.
        added = []
        for pair in steps:
            trainer.optimizer.zero_grad()
            added.append(peak_mib(pair[index], device))
        peaks.append(trainer.kept_mib() + max(added))
    return f"{text}; peak memory ours {peaks[0]:.0f} MiB, `{PEER}` {peaks[1]:.0f} MiB"


def _archs(sizes: Sizes, resolution: int) -> dict[str, list[ArchConfig]]:
    """Return the subnets by name, all at one resolution."""
    space, rng = preset(SPACE), np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(sizes.timed_subnets)]
    groups = {"largest": [space.largest()], "smallest": [space.smallest()], "random": drawn}
    return {name: [replace(arch, resolution=resolution) for arch in group] for name, group in groups.items()}


def _batch(sizes: Sizes, resolution: int, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(sizes.batch_size, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    return images.to(device), torch.arange(sizes.batch_size, device=device)


def _steps(trainers: list[Trainer], images: Tensor, labels: Tensor, arch: ArchConfig) -> list[Action]:
    return [lambda trainer=trainer: trainer.step(images, labels, arch) for trainer in trainers]


def _in_layout(kept: torch.memory_format, device: torch.device, half: torch.dtype | None) -> Trainer:
    """Return a supernet whose weights and images lie in memory in one way."""
    supernet = Supernet(preset(SPACE)).to(device)
    supernet.to(memory_format=kept)

    def forward(images: Tensor, arch: ArchConfig) -> Tensor:
        """Run the layers as `Supernet.forward` does, which would put the images in channels_last."""
        x = images.contiguous(memory_format=kept)
        for layer in layers(supernet.space, arch):
            x = supernet.elastic(layer)(x, layer)
        return x

    return Trainer(supernet, forward, half)
