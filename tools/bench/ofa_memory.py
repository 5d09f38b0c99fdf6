"""Peak memory of training steps, each network in a process of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from ofa_peer import peer_networks
from ofa_steps import SPACE, Case, OurTrainer, PeerTrainer, Trainer, cases, resident

from ofa_kit.arch.presets import preset
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.allocator import keep_freed_memory

STEPS = 5
"""Of the largest subnet, then of random ones."""


@dataclass(frozen=True)
class Peak:
    """Most resident memory of training steps, in MiB."""

    above_network: float
    """Beyond what the process held before its first step: imports and the network with a copy of its weights."""
    above_imports: float
    process: float


def peaks(shape: str, threads: int, seed: int) -> tuple[Peak, Peak]:
    """Return the peer's peak with its own allocator settings and ours with those of our training."""
    net, *_ = found = cases([shape], STEPS, seed)
    order = [net] * STEPS + [case for case in found if case.name.startswith("random")]
    return _in_process("peer", order, threads), _in_process("ours", order, threads)


def memory_table(shapes: Sequence[str], threads: int, seed: int) -> list[str]:
    """Print the peaks; return what missed its target."""
    print(
        f"\npeak memory in MiB, {STEPS} steps of the largest and {STEPS} of random subnets, a process for each network"
    )
    print(f"{'':13}  above the network       above imports      whole process")
    print(f"{'images':13}  {'peer':>6}  {'ours':>6}   {'peer':>6}  {'ours':>6}   {'peer':>6}  {'ours':>6}")
    missed = []
    for shape in shapes:
        peer, ours = peaks(shape, threads, seed)
        pairs = zip(astuple(peer), astuple(ours), strict=True)
        print(f"{shape:13}  {'   '.join(f'{one:6.0f}  {other:6.0f}' for one, other in pairs)}", flush=True)
        if ours.above_network > peer.above_network:
            missed.append(f"peak memory at {shape}: ours is higher")
    return missed


def _in_process(who: str, order: Sequence[Case], threads: int) -> Peak:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_train, who, order, threads).result()


def _train(who: str, order: Sequence[Case], threads: int) -> Peak:
    torch.set_num_threads(threads)
    if who == "peer":
        build = peer_networks()[SPACE]
        return peak_of(lambda: PeerTrainer(build()), order)
    keep_freed_memory()
    return peak_of(lambda: OurTrainer(Supernet(preset(SPACE))), order)


def peak_of(build: Callable[[], Trainer], order: Sequence[Case]) -> Peak:
    """Return the peak of this process while what `build` makes takes one step of each case."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)  # torch imports much for its first one
    optimizer.step()
    # Not getrusage: its maximum outlives exec, so a child begins with that of the process that started it.
    imports = resident("VmRSS")
    trainer = build()
    network = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again with what is resident now
    trainer.start(order[0])
    for case in order:
        trainer.take(case)
        trainer.step()
    peak = resident("VmHWM")
    return Peak(peak - network, peak - imports, peak)
