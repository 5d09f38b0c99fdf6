"""Measurements beside MIT's package `ofa`, the original once-for-all.

    pip install -e '.[bench]'
    python tools/bench/peers_ofa.py equality
    python tools/bench/peers_ofa.py speed
    python tools/bench/peers_ofa.py ablation

equality: its supernets, with random weights, batch norm statistics and kernel matrices, loaded into ours: logits of
random subnets, counts of parameters and MACs, descriptions and written-back weights must be the same.
speed: training steps, extraction, recalibration of batch norm and peak memory, the two in turn in the same run.
ablation: how much longer our training steps take without each of their optimisations.
Exit code 1 when something is off or a target is missed. Times need an idle machine.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from ofa_ablation import ablation
from ofa_peer import activate, costs, difference, lived_in, peer_networks
from ofa_speed import Settings, speed
from ofa_steps import SHAPES
from torch import Tensor, nn

from ofa_kit.arch.layers import macs, params
from ofa_kit.arch.ofa_net_config import arch_of_net_config, net_config
from ofa_kit.arch.presets import preset
from ofa_kit.arch.space import SearchSpace
from ofa_kit.supernet.mit_weights import load_weights, mit_state
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import Supernet

TOLERANCE = 1e-5
"""Largest difference of a logit, relative to the largest logit of the same images."""
RESOLUTIONS = (128, 160, 192, 224)
IMAGES = 2
ALLOCATOR = "default: training steps of the peer in a process of its own, with the system's allocator settings"


@dataclass(frozen=True)
class Found:
    """How one subnet of ours compares with the peer's."""

    largest_logit: float
    supernet: float
    """Relative difference of logits between the supernets."""
    static: float
    """The same between the peer's supernet and our static network with the peer's static weights."""
    same_costs: bool
    same_config: bool


def main() -> int:
    """Run the task that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("equality", help="logits, counts and weights are the same")
    task.add_argument("--subnets", type=int, default=50)
    task.add_argument("--seed", type=int, default=0)
    task.add_argument("--space", action="append", help="only this space; may be repeated")
    task = tasks.add_parser("speed", help="times and memory beside the peer's")
    _add_settings(task, subnets=4)
    task.add_argument("--peer-allocator", choices=["shared", "default"], default="shared", help=ALLOCATOR)
    _add_settings(tasks.add_parser("ablation", help="what each optimisation of ours gives"), subnets=2)
    arguments = vars(parser.parse_args())
    name = arguments.pop("task")
    if name == "equality":
        return equality(arguments["subnets"], arguments["seed"], arguments["space"])
    settings = Settings(**{**arguments, "shapes": arguments["shapes"] or SHAPES})
    return speed(settings) if name == "speed" else ablation(settings)


def _add_settings(task: argparse.ArgumentParser, *, subnets: int) -> None:
    task.add_argument("--threads", type=int, default=2)
    task.add_argument("--repetitions", type=int, default=7)
    task.add_argument("--subnets", type=int, default=subnets, help="random ones, beside the largest and the smallest")
    task.add_argument("--seed", type=int, default=0)
    task.add_argument("--shape", action="append", dest="shapes", help="only these images; may be repeated")


def equality(subnets: int, seed: int, spaces: list[str] | None) -> int:
    """Print one line a space; 1 when something is off."""
    networks = peer_networks()
    torch.set_num_threads(1)  # on a shared machine the threads of one network wait long for each other
    print(f"{'space':20} subnets  median |logit|  supernet  static    costs  configs  weights back  seconds")
    good = True
    for name in spaces or networks:
        start_s = perf_counter()
        found, same_weights = compare_space(preset(name), networks[name], subnets, seed)
        print(row(name, found, same_weights, perf_counter() - start_s), flush=True)
        good = good and same_weights and all(map(is_equal, found))
    print(f"equal (logits within {TOLERANCE:g})" if good else "NOT equal")
    return 0 if good else 1


def compare_space(
    space: SearchSpace, build: Callable[[], nn.Module], subnets: int, seed: int
) -> tuple[list[Found], bool]:
    """Return how random subnets compare, and whether the weights return to the peer as they came."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    peer, ours = lived_in(build, generator), Supernet(space).eval()
    load_weights(ours, peer.state_dict(), "the peer")
    found = [compare_subnet(peer, ours, rng, generator) for _ in range(subnets)]
    written, fresh = mit_state(ours), build()
    fresh.load_state_dict(written)
    return found, same(written, peer.state_dict()) and same(fresh.state_dict(), peer.state_dict())


@torch.no_grad()
def compare_subnet(peer: nn.Module, ours: Supernet, rng: np.random.Generator, generator: torch.Generator) -> Found:
    """Compare one random subnet at a random resolution, elastic and static."""
    space = ours.space
    arch = replace(space.sample(rng), resolution=int(rng.choice(RESOLUTIONS)))
    images = torch.randn(IMAGES, 3, arch.resolution, arch.resolution, generator=generator)
    activate(peer, space, arch)
    expected, static = peer(images), peer.get_active_subnet().eval()
    subnet = Subnet(space, arch).eval()
    load_weights(subnet, static.state_dict(), "the peer's subnet")
    config = static.config
    read = arch_of_net_config(config, arch.resolution)
    return Found(
        largest_logit=float(expected.abs().max()),
        supernet=difference(ours(images, arch), expected),
        static=difference(subnet(images), expected),
        same_costs=costs(static, arch.resolution) == (macs(space, arch), params(space, arch)),
        same_config=config == net_config(space, arch) and read == (space, arch),
    )


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are bit-equal."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def is_equal(found: Found) -> bool:
    """Whether a subnet is the peer's; false for values that are not finite."""
    return max(found.supernet, found.static) <= TOLERANCE and found.same_costs and found.same_config


def row(name: str, found: list[Found], same_weights: bool, elapsed_s: float) -> str:
    """Return the table's line of a space: worst differences, and how many of the rest are equal."""
    logit = np.median([f.largest_logit for f in found])
    worst = [max(f.supernet for f in found), max(f.static for f in found)]
    counts = [sum(f.same_costs for f in found), sum(f.same_config for f in found)]
    return (
        f"{name:20} {len(found):7}  {logit:14.2f}  {worst[0]:8.1e}  {worst[1]:8.1e}  {counts[0]:5}  {counts[1]:7}  "
        f"{'equal' if same_weights else 'DIFFERENT':>12}  {elapsed_s:7.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
