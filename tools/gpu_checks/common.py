"""What the checks share: sizes, results, networks with values of their own, exact fp32, and timing."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ofa_kit.arch.presets import preset
from ofa_kit.supernet.supernet import Supernet

Action = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One line of the list."""

    name: str
    good: bool
    figures: str


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much the checks compute."""

    subnets: int
    """Random subnets whose logits are compared, of each space."""
    large_subnets: int
    """The same of ofa-mbv3-w1.0."""
    steps: int
    """Sandwich steps in each precision."""
    training: Mapping[str, object]
    """What the recipe of runs in several processes says otherwise."""
    compiled_space: str
    compiled: tuple[str, ...]
    """Which subnets of it: largest, smallest."""
    batch_size: int
    """Images of a timed step."""
    resolutions: tuple[int, ...]
    """Of timed steps."""
    timed_subnets: int
    """Random subnets that are timed, besides largest and smallest."""
    warmup: int
    rounds: int


FULL = Sizes(
    subnets=20,
    large_subnets=5,
    steps=60,
    training={"epochs": 2},
    compiled_space="ofa-mbv3-w1.0",
    compiled=("largest", "smallest"),
    batch_size=64,
    resolutions=(224, 160),
    timed_subnets=6,
    warmup=10,
    rounds=30,
)
SMALL = Sizes(
    subnets=2,
    large_subnets=1,
    steps=24,
    training={"epochs": 1, "method": "single-path"},
    compiled_space="mbv3-tiny",
    compiled=("smallest",),
    batch_size=2,
    resolutions=(64,),
    timed_subnets=1,
    warmup=1,
    rounds=2,
)


@torch.no_grad()
def lived_in(name: str) -> Supernet:
    """Return a supernet whose every tensor, statistics included, has values of its own."""
    generator = torch.Generator().manual_seed(0)
    supernet = Supernet(preset(name), generator)
    for key, tensor in supernet.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if "kernel_transforms" in key:
            tensor.add_(0.1 * noise)
        elif key.endswith(("bn.weight", "running_var")):
            tensor.copy_(0.5 + noise.sigmoid())
        elif key.endswith(("bias", "running_mean")):
            tensor.copy_(0.1 * noise)
    return supernet.eval()


def difference(found: Tensor, expected: Tensor, least: float = 1e-12) -> float:
    """Return the largest difference, relative to the largest expected value or `least`; on any device."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=least))


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute fp32 convolutions and matrix products on GPU without TF32, whose results have 10 bits."""
    convolution, product = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolution.allow_tf32, product.allow_tf32
    convolution.allow_tf32 = product.allow_tf32 = False
    try:
        yield
    finally:
        convolution.allow_tf32, product.allow_tf32 = before


def medians_ms(actions: Sequence[Action], device: torch.device, sizes: Sizes) -> list[float]:
    """Return the median duration of each action; they take turns, so that a drift of the clocks meets all alike."""
    for action in actions:
        for _ in range(sizes.warmup):
            action()
    rounds = [[_once_ms(action, device) for action in actions] for _ in range(sizes.rounds)]
    return [median(durations) for durations in zip(*rounds, strict=True)]


def _once_ms(action: Action, device: torch.device) -> float:
    """Time an action from an idle device on: launches count where the device waits for them."""
    if device.type != "cuda":
        start_s = time.perf_counter()
        action()
        return 1e3 * (time.perf_counter() - start_s)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    action()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end))


def peak_mib(action: Action, device: torch.device) -> float:
    """Return how far an action's peak of allocated GPU memory lies above what was there before; NaN on CPU."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    action()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
