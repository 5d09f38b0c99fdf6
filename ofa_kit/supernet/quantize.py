"""Fake quantisation: low-bit weights (DoReFa, Zhou et al. 2016) and activations (PACT, Choi et al. 2018) in fp32.

Rounding passes its gradient straight through, so one fp32 copy of the weights serves every number of bits.
"""

import torch
from torch import Tensor

from ofa_kit.arch.layer import Layer
from ofa_kit.supernet.elastic import activate

CLIPPED = ("input_clip", "reduce_clip", "middle_clip")
"""Where a quantised bottleneck clips: what its first convolution and shortcut read, and what the other two read."""
FIRST_CLIP = 4.0
"""Where activations are clipped before training moves it."""


def quantized_weight(weight: Tensor, bits: int) -> Tensor:
    """Return a weight with 2^bits values, from -1 to 1; of one bit, plus and minus its mean size."""
    if bits == 1:
        return _straight_through(torch.where(weight >= 0, 1.0, -1.0) * weight.abs().mean(), weight)
    squashed = weight.tanh()
    share = squashed / (2 * squashed.abs().max()) + 0.5
    return 2 * rounded(share, 2**bits - 1) - 1


def clipped_activation(x: Tensor, clip: Tensor, bits: int) -> Tensor:
    """Return activations in 0..clip with 2^bits values; the gradient of `clip` is that of what it cuts off."""
    return rounded(torch.minimum(x.clamp(min=0), clip) / clip, 2**bits - 1) * clip


def activate_inside(layer: Layer, x: Tensor, clip: Tensor | None) -> Tensor:
    """Return what the next convolution of a bottleneck reads, in `layer.activation_bits` where there is a clip."""
    return activate(layer.activation, x) if clip is None else clipped_activation(x, clip, layer.activation_bits)


def rounded(share: Tensor, steps: int) -> Tensor:
    """Return values of 0..1 rounded to the nearest of `steps` equal steps."""
    return _straight_through((share * steps).round() / steps, share)


def _straight_through(value: Tensor, source: Tensor) -> Tensor:
    """Return `value` with the gradient of `source`."""
    return value.detach() + (source - source.detach())
