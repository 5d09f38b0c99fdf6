"""Equality: logits of GPU and CPU, of supernet and extracted subnet, of compiled and plain subnets."""

from collections.abc import Iterator

import numpy as np
import torch
from gpu_checks.common import Result, Sizes, difference, exact_fp32, lived_in, medians_ms

from ofa_kit.supernet.subnet import extract
from ofa_kit.supernet.supernet import Supernet, resize
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.rules import Pass
from ofa_kit.training.step import Step

SPACES = ("mbv3-tiny", "mbv3-small-images", "resnet-small-images", "bignas-small-images", "ofa-mbv3-w1.0")
LARGE = "ofa-mbv3-w1.0"
CPU_TOLERANCE, EXTRACT_TOLERANCE = 1e-4, 1e-5
COMPILED_TOLERANCE = 1e-3


@torch.no_grad()
def equality(device: torch.device, sizes: Sizes) -> Iterator[Result]:
    """Compare random subnets of each space, relative to the largest logit."""
    for name in SPACES:
        count = sizes.large_subnets if name == LARGE else sizes.subnets
        with exact_fp32():
            on_cpu, extracted = logits_differ(name, count, device)
        yield Result(
            name,
            on_cpu <= CPU_TOLERANCE and extracted <= EXTRACT_TOLERANCE,
            f"{count} subnets, {device.type} and cpu differ by {on_cpu:.1e} (at most {CPU_TOLERANCE:g}), extracted "
            f"and supernet on {device.type} by {extracted:.1e} (at most {EXTRACT_TOLERANCE:g})",
        )


def logits_differ(name: str, count: int, device: torch.device) -> tuple[float, float]:
    """Return the worst differences: supernet on the device and on CPU, extracted subnet and supernet."""
    here, there = lived_in(name), lived_in(name).to(device)
    space, rng = here.space, np.random.default_rng(0)
    size = max(space.resolutions)
    images = torch.randn(2, space.in_channels, size, size, generator=torch.Generator().manual_seed(1))
    found = []
    for _ in range(count):
        arch = space.sample(rng)
        moved = images.to(device)
        logits = there(moved, arch)
        subnet = extract(there, arch)(resize(moved, arch.resolution))
        found.append((difference(logits, here(images, arch)), difference(subnet, logits)))
    return tuple(np.max(found, axis=0).tolist())


def compiled(device: torch.device, sizes: Sizes) -> Iterator[Result]:
    """Compare subnets as a recipe with `compile: true` trains them with plain ones."""
    plain, faster = (lived_in(sizes.compiled_space).train().to(device) for _ in range(2))
    space = plain.space
    steps = [Step(net, Recipe(space=space.name), device) for net in (plain, faster)]
    ends = {"largest": space.largest(), "smallest": space.smallest()}
    archs = {name: ends[name] for name in sizes.compiled}
    steps[1].compile(list(archs.values()))
    size = max(space.resolutions)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(sizes.batch_size, space.in_channels, size, size, generator=generator).to(device)
    labels = torch.arange(sizes.batch_size, device=device) % space.num_classes
    for name, arch in archs.items():
        with exact_fp32():
            logits = difference(steps[1].compiled[arch](images), plain(images, arch))
            actions = [
                lambda step=step, arch=arch: _gradients(step, images, labels, Pass(arch, "labels")) for step in steps
            ]
            expected, found = (action() for action in actions)
            plain_ms, compiled_ms = medians_ms(actions, device, sizes)
        yield Result(
            f"{space.name} {name}",
            logits <= COMPILED_TOLERANCE,
            f"logits differ by {logits:.1e} (at most {COMPILED_TOLERANCE:g}), gradients by "
            f"{difference(found, expected):.1e}; forward and backward {plain_ms:.1f} ms plain, {compiled_ms:.1f} ms "
            f"compiled: {plain_ms / compiled_ms:.2f} times as fast",
        )


def _gradients(step: Step, images: torch.Tensor, labels: torch.Tensor, item: Pass) -> torch.Tensor:
    """Return all gradients of one pass in one tensor."""
    supernet: Supernet = step.supernet
    supernet.zero_grad()
    step.add_gradients(images, labels, [item], noise_seed=0)
    return torch.cat([p.grad.flatten() for p in supernet.parameters() if p.grad is not None])
