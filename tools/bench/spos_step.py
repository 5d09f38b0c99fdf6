"""One single-path training step of SPOS's supernet: ours beside a plain port of the authors', same net, same weights.

    python tools/bench/spos_step.py --threads 1 --repetitions 10

First both take steps in fp64, where their losses must agree: in fp32 rounding grows with each update of so deep a net.
Then they take steps in turn in fp32 and the least time of each counts; peak memory is that of a process of its own.
Exit code 1 when losses differ, or when ours is slower or takes more memory. Times need an idle machine.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from ofa_memory import Peak, peak_of
from ofa_speed import SAME_LOSS, header, training_timing
from ofa_steps import RECIPE, Case, OurTrainer, Trainer, geometric_mean, interleaved, machine, sizes
from spos_port import choices_of, port_of
from torch import Tensor, nn

from ofa_kit.arch.presets import preset
from ofa_kit.supernet.supernet import Supernet, fix_affine
from ofa_kit.training.allocator import keep_freed_memory

SPACE = "spos-shufflenet"
SHAPES = ("8x3x224x224", "32x3x224x224")
SMALL = "4x3x64x64"
"""Images of the steps in fp64."""
STEPS, SAME_IN_FP64 = 4, 1e-6
"""How many, and the relative difference of losses that rounding may make."""


class PortTrainer(Trainer):
    """The port with the optimizer of our training, as PyTorch makes it by default."""

    def logits(self) -> Tensor:
        logits: Tensor = self.network(self.images, choices_of(self.case.arch))
        return logits

    def new_optimizer(self) -> torch.optim.Optimizer:
        parameters = list(self.network.parameters())
        return torch.optim.SGD(
            parameters, lr=RECIPE.lr, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay, nesterov=True
        )


def main() -> int:
    """Time, watch memory and say what was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--subnets", type=int, default=3, help="random ones beside the smallest and the largest")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="images of a step as NxCxHxW")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    print(machine(arguments.repetitions))
    chosen = cases(arguments.shapes, arguments.subnets, arguments.seed)
    missed = different_work(cases([SMALL], 1, arguments.seed)[-1])
    missed += times(chosen, arguments.repetitions)
    missed += memory(chosen, arguments.threads)
    print("\n" + ("\n".join(f"MISSED: {what}" for what in missed) or "ours is faster and takes no more memory"))
    return 1 if missed else 0


def cases(shapes: Sequence[str], subnets: int, seed: int) -> list[Case]:
    """Return the ends of the space and random subnets for each shape."""
    space, rng = preset(SPACE), np.random.default_rng(seed)
    archs = {"largest": space.largest(), "smallest": space.smallest()}
    archs |= {f"random{number}": space.sample(rng) for number in range(subnets)}
    return [
        Case(name, shape, replace(arch, resolution=sizes(shape)[-1]))
        for shape in shapes
        for name, arch in archs.items()
    ]


def new_supernet() -> Supernet:
    """Return ours as training has it: batch norm without learned gamma and beta."""
    supernet = Supernet(preset(SPACE), torch.Generator().manual_seed(0))
    fix_affine(supernet)
    return supernet


def our_trainer() -> Trainer:
    """Return ours, ready for its first case."""
    return OurTrainer(new_supernet())


def port_trainer() -> Trainer:
    """Return the port with the same weights."""
    return PortTrainer(port_of(new_supernet()))


def different_work(case: Case) -> list[str]:
    """Return a complaint where losses of some steps in fp64 differ: the two would not do the same work."""
    losses = []
    for trainer in (our_trainer(), port_trainer()):
        trainer.network.double()
        trainer.start(case)
        trainer.images = trainer.images.double()
        losses.append([trainer.step().loss for _ in range(STEPS)])
    worst = max(abs(own / other - 1) for own, other in zip(*losses, strict=True))
    print(f"losses of {STEPS} steps in fp64 differ by up to {worst:.1e} (relative)")
    return [] if worst <= SAME_IN_FP64 else [f"losses in fp64 differ by {worst:.1e}"]


def times(chosen: Sequence[Case], repetitions: int) -> list[str]:
    """Print how long steps take; return what is off."""
    ours, port = our_trainer(), port_trainer()
    counts = [parameters_of(trainer.network) for trainer in (ours, port)]
    print(f"parameters: ours {counts[0]:,}, port {counts[1]:,}")
    print(header("training step (peer: the port)").replace("ofa-mbv3-w1.0", SPACE))
    missed = [] if counts[0] == counts[1] else ["the two have different numbers of parameters"]
    timings = []
    for case in chosen:
        ours.start(case)
        port.start(case)
        found = interleaved({"port": port.step, "ours": ours.step}, repetitions)
        timings.append(training_timing(case, found["port"], found["ours"]))
        print(timings[-1].row(), flush=True)
        off = abs(found["ours"][0].loss / found["port"][0].loss - 1)
        missed += [f"{case.shape} {case.name}: first losses differ by {off:.1e}"] if off > SAME_LOSS else []
    mean = geometric_mean([timing.ratio for timing in timings])
    print(f"geometric mean of the ratios {mean:.2f}")
    return missed + ([f"training steps: {mean:.2f} times as fast"] if mean < 1 else [])


def memory(chosen: Sequence[Case], threads: int) -> list[str]:
    """Print peak memory of a step of each case; return what is off."""
    print(f"\npeak memory in MiB above the network, one step of each of {len(chosen)} cases")
    builds = {"port": port_trainer, "ours": our_trainer}
    found = {name: peak(partial(watched, build, chosen, name == "ours", threads)) for name, build in builds.items()}
    print("  ".join(f"{name} {found[name].above_network:.0f}" for name in found))
    return ["peak memory: ours is higher"] if found["ours"].above_network > found["port"].above_network else []


def peak(action: partial[Peak]) -> Peak:
    """Return what an action found in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(action).result()


def watched(build: Callable[[], Trainer], order: Sequence[Case], keep_freed: bool, threads: int) -> Peak:
    """Return the peak of a process with the allocator settings that the trainer has where it is used."""
    torch.set_num_threads(threads)
    if keep_freed:
        keep_freed_memory()
    return peak_of(build, order)


def parameters_of(network: nn.Module) -> int:
    """Return the number of parameters that are trained."""
    return sum(tensor.numel() for tensor in network.parameters() if tensor.requires_grad)


if __name__ == "__main__":
    sys.exit(main())
