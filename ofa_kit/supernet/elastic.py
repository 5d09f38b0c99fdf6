"""Elastic layers: full-size weights, and for each static layer the slices of them that it uses.

`active_state(layer)` names the slices exactly as the static module of that layer names its tensors, so extraction
copies them and the elastic forward computes with them: there is one place that says which weights a subnet has.
Width: always the first n channels, of inputs, hidden and output channels alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.layer import Layer

BN_MOMENTUM = 0.1
FEW_PIXELS = 1024
"""Up to here a matrix product beats oneDNN's 1x1 convolution on CPU, forward and backward: 1.1 to 2.7 times."""
State = dict[str, Tensor]


@dataclass(frozen=True)
class Noise:
    """Regularisation of one pass; its randomness is the generator's alone."""

    dropout: float
    """Share of the features before the classifier that are dropped."""
    drop_connect: float
    """Probability at the last block with which an image skips it, falling linearly to 0 at the first."""
    generator: torch.Generator


class Elastic(nn.Module):
    """What all elastic layers share: how they normalise by batch statistics."""

    batch_norm: Callable[..., Tensor] = staticmethod(F.batch_norm)
    """Called as torch's; replaced where the batch is spread over processes (sync_batch_norm.py)."""


class ElasticConv(Elastic):
    """Convolution without bias, batch norm and activation; adds its input where the layer says so."""

    def __init__(self, choices: Sequence[Layer]) -> None:
        super().__init__()
        inside, outside = most_channels(choices)
        k = choices[0].kernel_size
        self.conv = nn.Conv2d(inside, outside, k, padding=k // 2, bias=False)
        self.bn = batch_norm(outside, choices[0].bn_eps)

    def forward(self, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:
        state = self.active_state(layer)
        y = F.conv2d(x, state["conv.weight"], stride=layer.stride, padding=layer.kernel_size // 2)
        y = activate(layer.activation, normalize(self, y, state, "bn", layer.bn_eps))
        return y + x if layer.shortcut else y

    def active_state(self, layer: Layer) -> State:
        weight = cut(self.conv.weight, layer.out_channels, layer.in_channels)
        return {"conv.weight": weight, **batch_norm_slices(self.bn, "bn", layer.out_channels)}


class ElasticMaxPool(Elastic):
    """3x3 max pooling with stride 2; it has no weights."""

    def forward(self, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:
        return F.max_pool2d(x, layer.kernel_size, layer.stride, layer.kernel_size // 2)

    def active_state(self, layer: Layer) -> State:
        return {}


class ElasticPooledConv(Elastic):
    """Global average pool, 1x1 convolution without batch norm, activation."""

    def __init__(self, choices: Sequence[Layer]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*most_channels(choices), 1, bias=choices[0].bias)

    def forward(self, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:
        state = self.active_state(layer)
        features = F.linear(x.mean((2, 3)), state["conv.weight"].flatten(1), state.get("conv.bias"))
        return activate(layer.activation, features)[:, :, None, None]

    def active_state(self, layer: Layer) -> State:
        state = {"conv.weight": cut(self.conv.weight, layer.out_channels, layer.in_channels)}
        return state if self.conv.bias is None else state | {"conv.bias": self.conv.bias[: layer.out_channels]}


class ElasticLinear(nn.Linear, Elastic):
    """The classifier: features (N, C, H, W), averaged over pixels, to logits (N, classes)."""

    def __init__(self, choices: Sequence[Layer]) -> None:
        super().__init__(*most_channels(choices), bias=choices[0].classifier_bias)

    def forward(self, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:  # type: ignore[override]
        features = x.mean((2, 3))
        if keep is not None:
            features = features * keep
        return F.linear(features, self.active_state(layer)["weight"], self.bias)

    def active_state(self, layer: Layer) -> State:
        state = {"weight": cut(self.weight, layer.out_channels, layer.in_channels)}
        return state | ({"bias": self.bias} if layer.classifier_bias else {})


def most_channels(choices: Sequence[Layer]) -> tuple[int, int]:
    """Return the largest numbers of input and output channels."""
    return max(layer.in_channels for layer in choices), max(layer.out_channels for layer in choices)


def cut(weight: Tensor, out_channels: int, in_channels: int) -> Tensor:
    """Return the first channels of a weight; the weight itself where that is all, as every slice costs a backward."""
    if weight.shape[0] > out_channels:
        weight = weight[:out_channels]
    return weight[:, :in_channels] if weight.shape[1] > in_channels else weight


def center(kernel: Tensor, size: int) -> Tensor:
    """Return the central window of a (C_out, C_in, K, K) weight."""
    start = (kernel.shape[-1] - size) // 2
    return kernel[..., start : start + size, start : start + size] if start else kernel


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Return the 1x1 convolution of (N, C, H, W) with (C_out, C, 1, 1)."""
    n, _, height, width = x.shape
    if n * height * width > FEW_PIXELS or x.is_cuda:
        return F.conv2d(x, weight)
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def activate(kind: str, x: Tensor) -> Tensor:
    """Apply an activation of `arch.choices.Activation`; in place where the backward pass allows it."""
    if kind == "relu":
        return F.relu_(x)
    if kind == "relu6":
        return F.hardtanh_(x, 0.0, 6.0)
    if kind == "hard_swish":
        return F.hardswish(x)
    return x if kind == "none" else F.silu(x)


def gate(kind: str, x: Tensor) -> Tensor:
    """Apply the last function of squeeze-and-excite."""
    return F.hardsigmoid(x) if kind == "hard_sigmoid" else torch.sigmoid(x)


def normalize(owner: Elastic, x: Tensor, state: State, name: str, eps: float) -> Tensor:
    """Batch norm with sliced parameters; training updates the sliced running statistics in place."""
    return owner.batch_norm(
        x,
        state[f"{name}.running_mean"],
        state[f"{name}.running_var"],
        state[f"{name}.weight"],
        state[f"{name}.bias"],
        owner.training,
        BN_MOMENTUM,
        eps,
    )


def batch_norm_slices(bn: nn.BatchNorm2d, name: str, channels: int) -> State:
    """Return the first `channels` of a batch norm's tensors, named after `name`."""
    tensors = {"weight": bn.weight, "bias": bn.bias, "running_mean": bn.running_mean, "running_var": bn.running_var}
    if bn.num_features > channels:
        tensors = {key: tensor[:channels] for key, tensor in tensors.items() if tensor is not None}
    return {f"{name}.{key}": tensor for key, tensor in tensors.items() if tensor is not None}


def batch_norm(channels: int, eps: float) -> nn.BatchNorm2d:
    """Return a batch norm with once-for-all's momentum."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=BN_MOMENTUM)


def downsample(x: Tensor, layer: Layer) -> Tensor:
    """Average-pool to the layer's stride as the shortcut of a block that changes shape does."""
    if layer.stride == 1 or layer.downsample == "conv":
        return x
    return F.avg_pool2d(x, layer.stride, layer.stride, ceil_mode=True, count_include_pad=False)
