"""Training steps of subnets of OFAMobileNetV3, by MIT's package and by ours: the same work, timed the same way."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from ofa_peer import activate, lived_in, peer_networks
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.presets import preset
from ofa_kit.supernet.mit_weights import load_weights
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.allocator import keep_freed_memory
from ofa_kit.training.optimizer import make_optimizer
from ofa_kit.training.recipe import Recipe

T = TypeVar("T")
SPACE = "ofa-mbv3-w1.0"
SHAPES = ("32x3x32x32", "64x3x32x32", "8x3x128x128")
"""Images of a step, as (N, C, H, W)."""
RECIPE = Recipe(space=SPACE, lr=0.01, momentum=0.9)
CLASSES = 1000


@dataclass(frozen=True)
class Case:
    """A subnet, and the images of its steps."""

    name: str
    shape: str
    arch: ArchConfig

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return images and labels of noise, the same ones each time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(*sizes(self.shape), generator=generator)
        return images, torch.randint(CLASSES, (len(images),), generator=generator)


@dataclass(frozen=True)
class Step:
    """What one training step took, and its loss before the update."""

    elapsed_s: float
    loss: float


def cases(shapes: Sequence[str], subnets: int, seed: int) -> list[Case]:
    """Return the largest, the smallest and random subnets, the same for each shape of images."""
    space, rng = preset(SPACE), np.random.default_rng(seed)
    archs = {"largest": space.largest(), "smallest": space.smallest()}
    archs |= {f"random{i}": space.sample(rng) for i in range(subnets)}
    return [
        Case(name, shape, replace(arch, resolution=sizes(shape)[-1]))
        for shape in shapes
        for name, arch in archs.items()
    ]


def sizes(shape: str) -> tuple[int, ...]:
    """Return the numbers of a shape such as 32x3x32x32."""
    return tuple(int(size) for size in shape.split("x"))


class Stepper(Protocol):
    """Takes training steps, here or in another process."""

    def start(self, case: Case) -> None:
        """Return to the first weights, with an optimizer that has seen nothing."""

    def step(self) -> Step:
        """Take one training step of the case."""


class Trainer:
    """Training steps of one network; every case starts from the weights that it came with."""

    case: Case

    def __init__(self, network: nn.Module) -> None:
        self.network = network.train()
        self.weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        self.optimizer = self.new_optimizer()

    def start(self, case: Case) -> None:
        """Return to the first weights, with an optimizer that has seen nothing."""
        self.restore()
        self.optimizer = self.new_optimizer()
        self.take(case)

    def restore(self) -> None:
        """Give the network its first weights and statistics."""
        self.network.load_state_dict(self.weights)

    def take(self, case: Case) -> None:
        """Go on with another subnet and other images."""
        self.case, (self.images, self.labels) = case, case.batch()

    def step(self) -> Step:
        """Take one training step of the case."""
        start_s = perf_counter()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.logits(), self.labels)
        loss.backward()
        self.optimizer.step()
        value = loss.item()
        return Step(perf_counter() - start_s, value)

    def logits(self) -> Tensor:
        raise NotImplementedError

    def new_optimizer(self) -> torch.optim.Optimizer:
        raise NotImplementedError


class PeerTrainer(Trainer):
    """The peer's supernet with the optimizer that its run configuration builds."""

    def logits(self) -> Tensor:
        activate(self.network, preset(SPACE), self.case.arch)
        logits: Tensor = self.network(self.images)
        return logits

    def new_optimizer(self) -> torch.optim.Optimizer:
        parameters = list(self.network.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": RECIPE.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=RECIPE.lr, momentum=RECIPE.momentum, nesterov=True)


class OurTrainer(Trainer):
    """Our supernet with the optimizer of our training."""

    network: Supernet

    def logits(self) -> Tensor:
        logits: Tensor = self.network(self.images, self.case.arch)
        return logits

    def new_optimizer(self) -> torch.optim.Optimizer:
        return make_optimizer(self.network, RECIPE)


def our_trainer(weights: Mapping[str, Tensor] | None = None) -> OurTrainer:
    """Return ours, with the peer's weights where they are given."""
    supernet = Supernet(preset(SPACE))
    if weights is not None:
        load_weights(supernet, dict(weights), "the peer")
    return OurTrainer(supernet)


def peer_trainer(seed: int) -> PeerTrainer:
    """Return the peer with weights of its own, the same for the same seed."""
    return PeerTrainer(lived_in(peer_networks()[SPACE], torch.Generator().manual_seed(seed)))


class RemoteTrainer:
    """A trainer in a process of its own, as allocator settings hold for a whole process."""

    def __init__(self, build: Callable[[], Trainer], *, keep_freed: bool, threads: int) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), _open, (build, keep_freed, threads))

    def start(self, case: Case) -> None:
        self.pool.submit(_start, case).result()

    def step(self) -> Step:
        return self.pool.submit(_step).result()

    def close(self) -> None:
        self.pool.shutdown()


_opened: list[Trainer] = []
"""The trainer of this process, where it was started by a RemoteTrainer."""


def _open(build: Callable[[], Trainer], keep_freed: bool, threads: int) -> None:
    if keep_freed:
        keep_freed_memory()
    torch.set_num_threads(threads)
    _opened.append(build())


def _start(case: Case) -> None:
    _opened[0].start(case)


def _step() -> Step:
    return _opened[0].step()


def interleaved(actions: Mapping[str, Callable[[], T]], repetitions: int) -> dict[str, list[T]]:
    """Return what each action gave, one of each in turn; another one begins each time, and the first turn warms up."""
    names = list(actions)
    found: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(repetitions + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(actions[name]())
    return found


def timed(action: Callable[[], Any]) -> float:
    """Return the seconds that an action takes."""
    start_s = perf_counter()
    action()
    return perf_counter() - start_s


def resident(key: str) -> float:
    """Return a size of this process in MiB: VmRSS, or VmHWM for the most it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values."""
    return float(np.exp(np.mean(np.log(values))))


def machine(repetitions: int) -> str:
    """Return the conditions of a measurement in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{models[0] if models else 'unknown CPU'}, {len(models)} cores; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; n = {repetitions}"
    )
