"""MIT's package `ofa` as a peer: its supernets with weights, statistics and kernel matrices of their own."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.ofa_format import to_ofa_dict
from ofa_kit.arch.space import SearchSpace

INSTALL = "the public package `ofa` is missing; install it with: pip install -e '.[bench]'"
MOBILE = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
RESNET = {"width_mult_list": [0.65, 0.8, 1.0], "expand_ratio_list": [0.2, 0.25, 0.35], "depth_list": [0, 1, 2]}
SETTLING_IMAGES = 32
"""Images of the pass that gives batch norms their statistics."""


def peer_networks() -> dict[str, Callable[[], nn.Module]]:
    """Return how to build MIT's supernet of each of our spaces; exits with what to install when `ofa` is missing."""
    try:
        from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3, OFAProxylessNASNets, OFAResNets
    except ImportError as error:
        sys.exit(f"error: {INSTALL} ({error})")
    return {
        "ofa-mbv3-w1.0": lambda: OFAMobileNetV3(dropout_rate=0, width_mult=1.0, **MOBILE),
        "ofa-mbv3-w1.2": lambda: OFAMobileNetV3(dropout_rate=0, width_mult=1.2, **MOBILE),
        "ofa-proxyless-w1.3": lambda: OFAProxylessNASNets(dropout_rate=0, width_mult=1.3, **MOBILE),
        "ofa-resnet50d": lambda: OFAResNets(dropout_rate=0, **RESNET),
    }


@torch.no_grad()
def lived_in(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """Return a peer whose every tensor has values of its own, and logits of order 1.

    Batch norms get random scales and offsets, and the statistics of one training pass of the largest network.
    """
    net = build()
    for name, tensor in net.named_parameters():
        if name.endswith("_matrix"):
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif tensor.ndim == 1:
            around = 1.0 if name.endswith("weight") else 0.0
            tensor.copy_(around + 0.2 * torch.randn(tensor.shape, generator=generator))
        else:
            fan_in = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    net.train()(torch.randn(SETTLING_IMAGES, 3, 128, 128, generator=generator))
    for norm in norms:
        norm.momentum = momentum
    return net.eval()


def activate(peer: Any, space: SearchSpace, arch: ArchConfig) -> None:
    """Make `arch` the peer's current subnet."""
    choices = to_ofa_dict(space, arch)
    peer.set_active_subnet(**{key: value for key, value in choices.items() if key != "r"})


@torch.no_grad()
def costs(static: nn.Module, resolution: int) -> tuple[int, int]:
    """Return MACs and parameters of a static network as the peer's own functions count them; it keeps their hooks."""
    from ofa.utils import count_parameters
    from ofa.utils.flops_counter import profile

    parameters = count_parameters(static)
    profile(static, (1, 3, resolution, resolution))
    # Its total is summed in float32, which rounds above 16.8 million; the layers' own counts are exact.
    macs = sum(int(module.total_ops) for module in static.modules() if hasattr(module, "total_ops"))
    return macs, parameters


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())
