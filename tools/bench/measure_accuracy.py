"""Time measuring the top-1 of subnets: a plain PyTorch loop against `ofa-kit measure-accuracy`, in turn.

    python tools/bench/measure_accuracy.py --run runs/methods/seed0/sandwich --subnets 100

The plain loop extracts each subnet, resets its batch norms, runs the calibration images in training mode with
cumulative averages, then all validation images; PyTorch has one thread a core. Ours has one process a core, whose
start counts. Both start from images that are decoded already. Repetitions alternate in order. Exit code 1 when ours,
through one of its runtimes, is not twice as fast with each top-1 the same to within 0.1 point.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.selection import stratified_subnets
from ofa_kit.commands.measure_accuracy import open_evaluator
from ofa_kit.commands.measure_engine import Measuring, open_engine, subnets_in_a_pass
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.batches import Batch
from ofa_kit.supernet.subnet import Subnet, extract
from ofa_kit.supernet.supernet import Supernet, resize
from ofa_kit.training.evaluate import labelled_batches
from ofa_kit.training.measure_subnets import SubnetMeter, chunks_of
from ofa_kit.training.run import Run

FASTER = 2.0
SAME_POINTS = 0.1
Counts = dict[str, int]
"""How many images each subnet classifies correctly, by architecture key."""


@dataclass
class Way:
    """One way to measure, and what it found: seconds per subnet of each repetition, counts of the last."""

    name: str
    count_correct: Callable[[Sequence[ArchConfig]], Counts]
    seconds: list[float] = field(default_factory=list)
    correct: Counts = field(default_factory=dict)

    def measure(self, archs: Sequence[ArchConfig]) -> None:
        """Measure all subnets and note how long each took on average."""
        start_s = perf_counter()
        self.correct = self.count_correct(archs)
        self.seconds.append((perf_counter() - start_s) / len(archs))
        print(f"{self.name}: {self.seconds[-1]:.2f} s per subnet", flush=True)


def main() -> int:
    """Measure the same subnets in each way and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--subnets", type=int, default=100)
    parser.add_argument("--images", type=int, default=0, help="Validation images; default: all.")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--cores", type=int, default=0, help="Threads or processes; default: all cores.")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    prepare_torch()
    cores = arguments.cores or torch.get_num_threads()
    ways, images = ways_of(run, arguments.images, cores)
    archs = stratified_subnets(run.space, arguments.subnets)
    for number in range(arguments.repetitions):
        for way in ways if number % 2 == 0 else reversed(ways):
            way.measure(archs)
    return report(ways, images, cores)


def ways_of(run: Run, images: int, cores: int) -> tuple[list[Way], int]:
    """Return the plain loop, then ours through both runtimes; and the number of validation images."""
    supernet, _ = run.load_supernet()
    evaluator = open_evaluator(run, images=images)
    meters = [SubnetMeter.of(supernet, evaluator, runtime) for runtime in ("pytorch", "onnxruntime")]
    kept = meters[0].calibration, meters[0].validation
    calibration, validation = (list(labelled_batches(part, run.info)) for part in kept)
    print(
        f"{run.name}: {len(kept[0].labels)} calibration, {len(kept[1].labels)} validation images, {cores} cores, "
        f"torch {torch.__version__}"
    )
    plain = PlainLoop(supernet, [images for images, _ in calibration], validation, cores)
    ways = [Way("plain loop", plain)]
    ways += [Way(f"ours, {meter.runtime}", partial(ours, meter, cores)) for meter in meters]
    return ways, evaluator.validation_count


def ours(meter: SubnetMeter, cores: int, archs: Sequence[ArchConfig]) -> Counts:
    """Measure as the command does."""
    found: Counts = {}
    with open_engine(Measuring(processes=cores), meter, len(archs)) as engine:
        size = subnets_in_a_pass(meter, len(archs), engine.width)
        for chunk, counts in engine.measure(chunks_of(meter.supernet.space, archs, size)):
            found |= {arch.key: count for arch, count in zip(chunk, counts, strict=True)}
    return found


@dataclass(frozen=True)
class PlainLoop:
    """What anyone would write: one subnet after the other, in PyTorch alone."""

    supernet: Supernet
    calibration: Sequence[Tensor]
    validation: Sequence[Batch]
    threads: int

    def __call__(self, archs: Sequence[ArchConfig]) -> Counts:
        torch.set_num_threads(self.threads)
        return {arch.key: self.one(extract(self.supernet, arch)) for arch in archs}

    @torch.no_grad()
    def one(self, subnet: Subnet) -> int:
        """Return how many validation images a subnet classifies correctly after its own recalibration."""
        for module in subnet.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        subnet.train()
        for images in self.calibration:
            subnet(resize(images, subnet.arch.resolution))
        subnet.eval()
        correct = 0
        for images, labels in self.validation:
            correct += int((subnet(resize(images, subnet.arch.resolution)).argmax(1) == labels).sum())
        return correct


def report(ways: Sequence[Way], images: int, cores: int) -> int:
    """Print seconds per subnet and differences; return 1 where neither runtime of ours meets both targets."""
    plain, met = ways[0], False
    print(
        f"\n{'seconds per subnet':20} {'median':>7} {'least':>7} {'most':>7}   {'faster':>6}  top-1 differs, in points"
    )
    for way in ways:
        faster = median(plain.seconds) / median(way.seconds)
        points = [100 * abs(count - plain.correct[key]) / images for key, count in way.correct.items()]
        print(
            f"{way.name:20} {median(way.seconds):7.2f} {min(way.seconds):7.2f} {max(way.seconds):7.2f}   "
            f"{faster:6.2f}  at most {max(points):.3f}, on average {sum(points) / len(points):.3f}"
        )
        met |= way is not plain and faster >= FASTER and max(points) <= SAME_POINTS
    print(f"{len(plain.correct)} subnets, {cores} cores, n = {len(plain.seconds)} repetitions, in turn")
    print(f"{'met' if met else 'MISSED'}: {FASTER:g} times as fast, top-1 the same to within {SAME_POINTS} points")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
