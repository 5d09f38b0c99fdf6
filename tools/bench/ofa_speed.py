"""Speed and memory beside MIT's package: training steps, extraction, recalibration of batch norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from ofa_memory import memory_table
from ofa_peer import activate, difference
from ofa_steps import (
    SHAPES,
    SPACE,
    Case,
    PeerTrainer,
    RemoteTrainer,
    Step,
    Stepper,
    cases,
    geometric_mean,
    interleaved,
    machine,
    our_trainer,
    peer_trainer,
    timed,
)
from torch import Tensor, nn

from ofa_kit.supernet.mit_weights import load_weights
from ofa_kit.supernet.recalibrate import recalibrate, recalibrate_together
from ofa_kit.supernet.subnet import Subnet, extract
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.allocator import keep_freed_memory

MEAN, WORST, OTHER = 2.0, 1.2, 2.0
"""Targets: geometric mean and worst case of training steps; extraction and recalibration."""
SAME_LOSS = 1e-4
"""Relative difference of the first loss of a case; that of the second, after an update, may be ten times as large."""
SAME_STATISTICS = 1e-4
"""Largest difference of means and of variances of a batch norm, relative to its largest."""
CALIBRATION = "64x3x64x64"
CALIBRATION_BATCHES, CALIBRATION_REPETITIONS = 10, 3
SHARED_NOTE = "one process: the allocator settings of our training hold for the peer too, and help it as well"


@dataclass(frozen=True)
class Timing:
    """Seconds of repetitions of the same work."""

    name: str
    peer_s: Sequence[float]
    ours_s: Sequence[float]

    @property
    def ratio(self) -> float:
        """How many times as fast ours is, by the minima."""
        return min(self.peer_s) / min(self.ours_s)

    def row(self) -> str:
        times = [1000 * value for s in (self.peer_s, self.ours_s) for value in (min(s), median(s))]
        return f"{self.name:28} {times[0]:9.1f} {times[1]:9.1f}  {times[2]:9.1f} {times[3]:9.1f}  {self.ratio:5.2f}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says."""

    threads: int
    repetitions: int
    subnets: int
    seed: int
    shapes: Sequence[str] = SHAPES
    peer_allocator: str = "shared"


def speed(settings: Settings) -> int:
    """Print the tables; 1 when a target is missed."""
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    print(machine(settings.repetitions))
    peer = peer_trainer(settings.seed)
    ours = our_trainer(peer.weights)
    missed = []
    if settings.peer_allocator == "shared":
        print(SHARED_NOTE)
        missed += training_table(peer, ours, settings)
    else:
        print("the peer in a process of its own, with the system's allocator settings")
        remote = RemoteTrainer(partial(peer_trainer, settings.seed), keep_freed=False, threads=settings.threads)
        missed += training_table(remote, ours, settings)
        remote.close()
    peer.restore()
    ours.restore()
    missed += extraction_table(peer, ours.network, settings)
    missed += recalibration_table(peer, ours.network, settings)
    missed += memory_table(settings.shapes[-2:], settings.threads, settings.seed)
    print("\n" + ("\n".join(f"MISSED: {what}" for what in missed) or "all targets met"))
    return 1 if missed else 0


def training_table(peer: Stepper, ours: Stepper, settings: Settings) -> list[str]:
    """Print how long training steps take; return what missed its target."""
    print(header("training step"))
    timings, missed = [], []
    for case in cases(settings.shapes, settings.subnets, settings.seed):
        peer.start(case)
        ours.start(case)
        found = interleaved({"peer": peer.step, "ours": ours.step}, settings.repetitions)
        timings.append(training_timing(case, found["peer"], found["ours"]))
        print(timings[-1].row(), flush=True)
        missed += different_losses(case, found["peer"], found["ours"])
    ratios = [timing.ratio for timing in timings]
    worst = min(timings, key=lambda timing: timing.ratio)
    print(f"geometric mean {geometric_mean(ratios):.2f}; worst {worst.ratio:.2f} ({' '.join(worst.name.split())})")
    missed += [f"training steps: geometric mean below {MEAN}"] if geometric_mean(ratios) < MEAN else []
    return missed + ([f"training steps: a case below {WORST}"] if worst.ratio < WORST else [])


def training_timing(case: Case, peer: Sequence[Step], ours: Sequence[Step]) -> Timing:
    """Return the timing of a case without its warm-up."""
    name = f"{case.shape:12} {case.name}"
    return Timing(name, [step.elapsed_s for step in peer[1:]], [step.elapsed_s for step in ours[1:]])


def different_losses(case: Case, peer: Sequence[Step], ours: Sequence[Step]) -> list[str]:
    """Return a complaint where the two did different work: the first loss, or the second, after one update."""
    first, second = (abs(own.loss / other.loss - 1) for own, other in zip(ours[:2], peer[:2], strict=True))
    if first <= SAME_LOSS and second <= 10 * SAME_LOSS:
        return []
    return [f"{case.shape} {case.name}: losses differ by {first:.1e}, after an update by {second:.1e} (relative)"]


def extraction_table(peer: PeerTrainer, ours: Supernet, settings: Settings) -> list[str]:
    """Print how long extraction takes; return what missed its target."""
    print(header("extraction of a subnet"))
    timings = []
    for case in cases([CALIBRATION], settings.subnets, settings.seed):
        activate(peer.network, ours.space, case.arch)
        actions = {"peer": peer.network.get_active_subnet, "ours": partial(extract, ours, case.arch)}
        timings.append(interleaved_timing(case.name, actions, settings.repetitions))
        print(timings[-1].row(), flush=True)
    return below("extraction", timings)


def recalibration_table(peer: PeerTrainer, ours: Supernet, settings: Settings) -> list[str]:
    """Print how long recalibration takes, of one subnet and of several; return what missed its target."""
    repetitions = min(CALIBRATION_REPETITIONS, settings.repetitions)
    print(header(f"recalibration, {CALIBRATION_BATCHES} x {CALIBRATION} (n = {repetitions})"))
    generator = torch.Generator().manual_seed(settings.seed)
    size = tuple(map(int, CALIBRATION.split("x")))
    batches = [torch.randn(size, generator=generator) for _ in range(CALIBRATION_BATCHES)]
    chosen = [case for case in cases([CALIBRATION], settings.subnets, settings.seed) if case.name.startswith("random")]
    theirs, own = [], []
    for case in chosen:
        activate(peer.network, ours.space, case.arch)
        theirs.append(peer.network.get_active_subnet())
        own.append(extract(ours, case.arch))
    one = {"peer": lambda: peer_recalibrate(theirs[:1], batches), "ours": lambda: recalibrate(own[0], batches)}
    several = {"peer": lambda: peer_recalibrate(theirs, batches), "ours": lambda: recalibrate_together(own, batches)}
    missed = []
    for name, actions in (("one subnet", one), (f"{len(own)} subnets together", several)):
        timing = interleaved_timing(name, actions, repetitions)
        print(timing.row(), flush=True)
        missed += below(f"recalibration of {name}", [timing])
    worst = max(map(statistics_difference, theirs, own))
    for batch in batches:
        peer_recalibrate(theirs[:1], [batch])
        recalibrate(own[0], [batch])
        worst = max(worst, statistics_difference(theirs[0], own[0]))
    print(f"largest relative difference of statistics, of all batches and of each one alone: {worst:.1e}")
    return missed + ([] if worst <= SAME_STATISTICS else [f"statistics differ by more than {SAME_STATISTICS:g}"])


def peer_recalibrate(subnets: Sequence[nn.Module], batches: Sequence[Tensor]) -> None:
    """Recalibrate the peer's static subnets one after the other, as it does."""
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    for subnet in subnets:
        set_running_statistics(subnet, [(images, torch.zeros(len(images))) for images in batches])


def statistics_difference(theirs: nn.Module, own: Subnet) -> float:
    """Return how far the statistics of two recalibrated subnets are apart."""
    expected = Subnet(own.space, own.arch)
    load_weights(expected, theirs.state_dict(), "the peer's subnet")
    wanted = expected.state_dict()
    return max(difference(tensor, wanted[key]) for key, tensor in own.state_dict().items() if "running_" in key)


def interleaved_timing(name: str, actions: dict, repetitions: int) -> Timing:
    """Time the peer's action and ours in turn, after a warm-up."""
    found = interleaved({who: partial(timed, action) for who, action in actions.items()}, repetitions)
    return Timing(name, found["peer"][1:], found["ours"][1:])


def below(what: str, timings: Sequence[Timing]) -> list[str]:
    """Return a complaint where the geometric mean of the ratios is below its target."""
    mean = geometric_mean([timing.ratio for timing in timings])
    if len(timings) > 1:
        print(f"geometric mean {mean:.2f}")
    return [f"{what}: {mean:.2f} times as fast, below {OTHER}"] if mean < OTHER else []


def header(what: str) -> str:
    """Return the head of a table of times."""
    columns = f"{'peer min':>9} {'median':>9}  {'ours min':>9} {'median':>9}  ratio"
    return f"\n{SPACE}, {what}, in ms\n{'':28} {columns}"
