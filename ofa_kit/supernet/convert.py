"""convert: a trained network made of blocks as a supernet whose largest subnet computes exactly what it computes."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import layers
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import ConvertError
from ofa_kit.supernet.channel_order import sort_channels
from ofa_kit.supernet.one_thread import one_thread
from ofa_kit.supernet.recognize import Part, recognize
from ofa_kit.supernet.space_of import EXPAND_FRACTIONS, MOST_SKIPPED, space_of
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.supernet.trace import refuse, trace

TOLERANCE = 1e-5
"""Of logits in float64: the same network differs by 1e-13, by 1e-8 where biases of convolutions were folded."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A supernet made of a model, and how far its largest subnet is from that."""

    supernet: Supernet
    max_relative_difference: float
    """Largest difference of a logit on images of noise in float64, relative to the model's largest logit."""
    float32_difference: float
    """The same in float32, which is rounding."""

    @property
    def space(self) -> SearchSpace:
        return self.supernet.space


def convert(
    model: nn.Module,
    *,
    resolutions: Sequence[int],
    name: str = "converted",
    expand_fractions: Sequence[float] = EXPAND_FRACTIONS,
    most_skipped: int = MOST_SKIPPED,
) -> Converted:
    """Return the supernet in evaluation mode; a ConvertError names the first module that does not fit.

    Smaller choices: odd kernel sizes down to 3, `expand_fractions` of each block's hidden channels, and up to
    `most_skipped` blocks fewer in each stage. The hidden channels are sorted by importance, so that smaller subnets
    start with the channels that matter most. Dropout and stochastic depth, identities in evaluation, are left out.
    """
    if not resolutions or min(resolutions) < 1:
        raise ConvertError(f"resolutions are sizes in pixels, at least one, found {tuple(resolutions)}")
    model = copy.deepcopy(model).float().cpu().eval()
    parts = list(recognize(trace(model)))
    net, sizes = [part.layer for part in parts], sorted(set(resolutions))
    space = space_of(net, sizes, name, expand_fractions=expand_fractions, most_skipped=most_skipped)
    largest = layers(space, space.largest())
    for part, layer in zip(parts, largest, strict=True):
        _refuse_difference(part, layer)
    supernet = Supernet(space).eval()
    _fill(supernet, largest, parts)
    sort_channels(supernet, space.restricted(kernel_sizes=1, depths=1, expand_ratios=1, widths=1))
    rounding, difference = _differences(model, supernet)
    if not difference <= TOLERANCE:
        raise ConvertError(
            f"the supernet's largest subnet differs from the model by {difference:.2e} in float64, allowed "
            f"{TOLERANCE}: its forward does something that its modules do not show; {type(model).__name__} cannot be "
            "converted"
        )
    return Converted(supernet=supernet, max_relative_difference=difference, float32_difference=rounding)


def _refuse_difference(part: Part, layer: Layer) -> None:
    """Raise where the space's layer is not the model's: what a whole stage or head shares differs inside it."""
    found, expected = (asdict(_comparable(one, layer)) for one in (part.layer, layer))
    for name, value in found.items():
        if value != expected[name]:
            refuse(part.place, f"{name} {expected[name]} (as its stage or the head has)", str(value))


def _comparable(layer: Layer, like: Layer) -> Layer:
    """Return the layer at another's place, with defaults for what it has no use for."""
    layer = replace(layer, name=like.name, input_size=like.input_size)
    if not layer.squeeze_channels:
        layer = replace(layer, squeeze_activation="relu", gate="hard_sigmoid")
    return layer if layer.projected else replace(layer, downsample="avgpool_conv")


@torch.no_grad()
def _fill(supernet: Supernet, net: Sequence[Layer], parts: Sequence[Part]) -> None:
    """Copy the model's tensors into the supernet's, which have the same names and shapes in its largest subnet."""
    for layer, part in zip(net, parts, strict=True):
        tensors = supernet.elastic(layer).active_state(layer)
        assert tensors.keys() == part.state.keys(), (layer.name, tensors.keys() ^ part.state.keys())
        for key, tensor in tensors.items():
            assert tensor.shape == part.state[key].shape, (layer.name, key)
            tensor.copy_(part.state[key])


@torch.no_grad()
def _differences(model: nn.Module, supernet: Supernet) -> tuple[float, float]:
    """Return the differences in float32 and float64 on two images of noise, relative to the largest logit.

    In float32 deep networks round differently by 1e-5 as soon as a memory format changes; float64 tells rounding from
    another network.
    """
    space = supernet.space
    size = max(space.resolutions)
    images = torch.randn(2, space.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    rounding = _difference(model, supernet, images)
    with one_thread():  # depthwise convolutions in float64 go channel by channel: on busy cores threads would wait
        return rounding, _difference(model.double(), copy.deepcopy(supernet).double(), images.double())


def _difference(model: nn.Module, supernet: Supernet, images: Tensor) -> float:
    expected, found = model(images), supernet(images, supernet.space.largest())
    if not expected.isfinite().all():
        raise ConvertError("the model's logits on images of noise are not finite: its weights are damaged")
    if found.shape != expected.shape:
        raise ConvertError(f"the model gives {tuple(expected.shape)}, its supernet {tuple(found.shape)}")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
