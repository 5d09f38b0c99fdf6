"""Time and peak memory of one search step beside a plain port of the authors' code, on the same network.

    python tools/bench/darts_step.py --cells 4 --channels 8 --batch 64 --repetitions 5

Both begin with the same weights and alphas; their losses and the first alphas' gradients must agree in fp64. Then
steps are interleaved and minima compared: of processor time with one thread, which other work on the machine disturbs
less, else of wall-clock time. Memory is that of a process each. Exit code 1 when ours is slower or needs more memory.

Ours computes less: `none` not at all; ReLU, and pools with their batch norm, once a node instead of once an edge; a
share is the gamma of its operation's last batch norm, so outputs are neither multiplied nor kept twice; sums are
taken in place; first order and the finite difference ask for no gradient of the weights, steps of the weights for
none of the alphas; second order evaluates the moved weights without a second network; channels come last; and dilated
convolutions have gradients of four without dilation.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
from darts_peer import Network, Peer
from ofa_steps import interleaved, machine, resident
from torch import Tensor

from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.darts.alphas import Alphas
from ofa_kit.nas.darts.network import SearchNetwork
from ofa_kit.nas.darts.recipe import DartsRecipe
from ofa_kit.nas.darts.step import SearchStep
from ofa_kit.training.allocator import keep_freed_memory

LR = 0.025
ORDERS = ("first", "second")
MEMORY_STEPS = 3
GRADIENT_BATCH = 8
"""Images whose gradients are compared."""
SAME = 1e-9
"""Largest relative difference of the first alphas' gradients, in fp64: in fp32 rounding moves ReLU's kinks between the
two points of a finite difference, see `ofa_kit.nas.darts.gradients`."""
Batch = tuple[Tensor, Tensor]


def main() -> int:
    """Print the table; return 1 when ours is slower, larger or different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = (given.cells, given.channels, given.batch)
    print(f"{given.cells} cells, {given.channels} channels, batch {given.batch}, 32x32; {machine(given.repetitions)}")
    print("one step = alphas and weights; allocator settings of our training hold for both in the timing")
    clock = "processor time" if given.threads == 1 else "wall-clock time"
    print(f"seconds are {clock}")
    print(f"{'order':7} {'':5} {'min s':>8} {'median s':>9} {'peak MiB':>9}   first gradient of the alphas differs by")
    held = [compared(order, shape, given.repetitions, given.threads) for order in ORDERS]
    return 0 if all(held) else 1


def compared(order: str, shape: tuple[int, int, int], repetitions: int, threads: int) -> bool:
    """Print both rows of an order and their ratios; return whether ours holds."""
    peaks = {who: in_process(who, order, shape, threads) for who in ("peer", "ours")}
    keep_freed_memory()
    difference = first_difference(order, (shape[0], shape[1], GRADIENT_BATCH))
    steps = {who: make_step(who, order, shape) for who in ("peer", "ours")}
    clock = process_time if threads == 1 else perf_counter
    times_s = interleaved({who: partial(seconds, step, clock) for who, step in steps.items()}, repetitions)
    for who, found_s in times_s.items():
        extra = f"{difference:.1e}" if who == "ours" else ""
        print(f"{order:7} {who:5} {min(found_s):8.3f} {median(found_s):9.3f} {peaks[who]:9.0f}   {extra}", flush=True)
    faster = min(times_s["peer"]) / min(times_s["ours"])
    smaller = peaks["peer"] / peaks["ours"]
    print(f"{order:7} ours is {faster:.2f} times as fast and takes {1 / smaller:.2f} of the memory", flush=True)
    return faster >= 1 and smaller >= 1 and difference <= SAME


def seconds(step: Callable[[], float], clock: Callable[[], float]) -> float:
    """Return what a step takes by a clock."""
    start_s = clock()
    step()
    return clock() - start_s


def make_step(who: str, order: str, shape: tuple[int, int, int]) -> Callable[[], float]:
    """Return one search step on fixed batches; both sides begin alike."""
    train, valid = batches(shape)
    if who == "peer":
        peer = Peer(peer_network(shape), order == "second", LR)

        def peer_step() -> float:
            peer.move_alphas(train, valid)
            return peer.move_weights(train)

        return peer_step
    ours = our_step(order, shape)
    train, valid = (as_a_search_has_it(batch) for batch in (train, valid))

    def step() -> float:
        ours.move_alphas(train, valid, LR)
        return ours.move_weights(train, LR)

    return step


def first_difference(order: str, shape: tuple[int, int, int]) -> float:
    """Return the largest relative difference of the alphas' first gradients in fp64; exit when the losses differ."""
    torch.set_default_dtype(torch.float64)
    try:
        return difference_here(order, shape)
    finally:
        torch.set_default_dtype(torch.float32)


def difference_here(order: str, shape: tuple[int, int, int]) -> float:
    """Return that difference in the precision that is set."""
    train, valid = batches(shape)
    peer, ours = Peer(peer_network(shape), order == "second", LR), our_step(order, shape)
    peer.move_alphas(train, valid)
    ours.move_alphas(train, valid, LR)
    theirs = [alphas.grad.clone() for alphas in peer.network.alphas]  # their step of the weights adds to it
    mine = [alphas.grad.clone() for alphas in ours.alphas.tensors]
    losses = peer.move_weights(train), ours.move_weights(train, LR)
    if abs(losses[0] / losses[1] - 1) > 1e-6:
        sys.exit(f"the networks are not the same: losses {losses}")
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(theirs, mine, strict=True)) / scale


def peer_network(shape: tuple[int, int, int]) -> Network:
    """Return the port with its first weights."""
    torch.manual_seed(0)
    return Network(shape[1], 10, shape[0])


def our_step(order: str, shape: tuple[int, int, int]) -> SearchStep:
    """Return ours with the port's weights and alphas."""
    source = peer_network(shape)
    network = SearchNetwork(CellNetworkShape(cells=shape[0], channels=shape[1]))
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), source.parameters(), strict=True):
            assert mine.shape == theirs.shape
            mine.copy_(theirs)
    fresh = Alphas.fresh(4, len(DARTS_OPERATIONS), torch.Generator())
    alphas = fresh.with_tensors([a.detach().clone().requires_grad_() for a in source.alphas])
    return SearchStep(network, alphas, DartsRecipe(order=order))  # type: ignore[arg-type]


def batches(shape: tuple[int, int, int]) -> tuple[Batch, Batch]:
    """Return random images and labels for weights and alphas."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, shape[2], 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (2, shape[2]), generator=generator)
    return (images[0], labels[0]), (images[1], labels[1])


def as_a_search_has_it(batch: Batch) -> Batch:
    """Return a batch in the layout of the search's own."""
    return batch[0].to(memory_format=torch.channels_last), batch[1]


def in_process(who: str, order: str, shape: tuple[int, int, int], threads: int) -> float:
    """Return the peak of a few steps in MiB above what the process held before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(peak, who, order, shape, threads).result()


def peak(who: str, order: str, shape: tuple[int, int, int], threads: int) -> float:
    """Run steps and return the most resident memory above the network's; each with its own allocator settings."""
    torch.set_num_threads(threads)
    if who == "ours":
        keep_freed_memory()
    step = make_step(who, order, shape)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again with what is resident now
    for _ in range(MEMORY_STEPS):
        step()
    return resident("VmHWM") - before


if __name__ == "__main__":
    sys.exit(main())
