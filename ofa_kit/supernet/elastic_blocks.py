"""Elastic blocks: inverted residuals (Sandler et al. 2018) and bottlenecks (He et al. 2016) of any width and kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.layer import Layer
from ofa_kit.supernet.elastic import (
    Elastic,
    State,
    activate,
    batch_norm,
    batch_norm_slices,
    center,
    cut,
    downsample,
    gate,
    most_channels,
    normalize,
    pointwise,
)
from ofa_kit.supernet.quantize import CLIPPED, FIRST_CLIP, activate_inside, clipped_activation, quantized_weight


class ElasticInvertedResidual(Elastic):
    """Inverted residual with elastic kernel size, expansion, input and output width.

    Kernel, as in once-for-all: the centre of the next larger kernel, flattened row by row, times a learned matrix that
    starts as the identity; 7 -> 5 -> 3 are chained. Without matrices, as in BigNAS: the bare centre.
    """

    def __init__(self, choices: Sequence[Layer], *, kernel_transforms: bool) -> None:
        super().__init__()
        inside, outside = most_channels(choices)
        hidden = max(layer.hidden_channels for layer in choices)
        squeezed = max(layer.squeeze_channels for layer in choices)
        eps = choices[0].bn_eps
        self.kernel_sizes = tuple(sorted({layer.kernel_size for layer in choices}, reverse=True))
        if any(layer.expands for layer in choices):
            self.expand = nn.Conv2d(inside, hidden, 1, bias=False)
            self.expand_bn = batch_norm(hidden, eps)
        self.depthwise = nn.Conv2d(hidden, hidden, self.kernel_sizes[0], groups=hidden, bias=False)
        self.depthwise_bn = batch_norm(hidden, eps)
        pairs = zip(self.kernel_sizes, self.kernel_sizes[1:], strict=False) if kernel_transforms else ()
        self.kernel_transforms = nn.ParameterDict(
            {f"{large}to{small}": nn.Parameter(torch.eye(small**2)) for large, small in pairs}
        )
        if squeezed:
            self.se_reduce = nn.Conv2d(hidden, squeezed, 1)
            self.se_expand = nn.Conv2d(squeezed, hidden, 1)
        self.project = nn.Conv2d(hidden, outside, 1, bias=False)
        self.project_bn = batch_norm(outside, eps)
        if any(layer.shortcut_conv for layer in choices):
            self.shortcut = nn.Conv2d(inside, outside, 1, bias=False)

    def forward(self, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:
        """Return the block's output; `keep` (N, 1, 1, 1) scales its residual branch for each image."""
        state, source, eps = self.active_state(layer), x, layer.bn_eps
        if layer.expands:
            x = pointwise(x, state["expand.weight"])
            x = activate(layer.activation, normalize(self, x, state, "expand_bn", eps))
        # A kernel only ever meets offsets smaller than the map: what lies outside is padding times weight.
        kernel = center(state["depthwise.weight"], min(layer.kernel_size, 2 * layer.input_size - 1))
        x = F.conv2d(x, kernel, stride=layer.stride, padding=kernel.shape[-1] // 2, groups=layer.hidden_channels)
        x = activate(layer.activation, normalize(self, x, state, "depthwise_bn", eps))
        if layer.squeeze_channels:
            # On a 1x1 map a convolution is a matrix product, and a faster one.
            squeezed = F.linear(x.mean((2, 3)), state["se_reduce.weight"].flatten(1), state["se_reduce.bias"])
            squeezed = activate(layer.squeeze_activation, squeezed)
            scale = gate(layer.gate, F.linear(squeezed, state["se_expand.weight"].flatten(1), state["se_expand.bias"]))
            x = x * scale[:, :, None, None]
        x = normalize(self, pointwise(x, state["project.weight"]), state, "project_bn", eps)
        if keep is not None and layer.shortcut and not layer.projected:
            x = x * keep
        if not layer.shortcut:
            return x
        if layer.projected:
            source = downsample(source, layer)
        return x + (pointwise(source, state["shortcut.weight"]) if layer.shortcut_conv else source)

    def active_state(self, layer: Layer) -> State:
        inside, hidden, outside = layer.in_channels, layer.hidden_channels, layer.out_channels
        state = State()
        if layer.expands:
            state["expand.weight"] = cut(self.expand.weight, hidden, inside)
            state |= batch_norm_slices(self.expand_bn, "expand_bn", hidden)
        state["depthwise.weight"] = self.kernel(layer.kernel_size, hidden)
        state |= batch_norm_slices(self.depthwise_bn, "depthwise_bn", hidden)
        if middle := layer.squeeze_channels:
            state["se_reduce.weight"] = cut(self.se_reduce.weight, middle, hidden)
            assert self.se_reduce.bias is not None
            assert self.se_expand.bias is not None
            state["se_reduce.bias"] = self.se_reduce.bias[:middle]
            state["se_expand.weight"] = cut(self.se_expand.weight, hidden, middle)
            state["se_expand.bias"] = self.se_expand.bias[:hidden]
        state["project.weight"] = cut(self.project.weight, outside, hidden)
        if layer.shortcut_conv:
            state["shortcut.weight"] = cut(self.shortcut.weight, outside, inside)
        return state | batch_norm_slices(self.project_bn, "project_bn", outside)

    def kernel(self, kernel_size: int, channels: int) -> Tensor:
        """Return the depthwise kernel (channels, 1, kernel_size, kernel_size)."""
        kernel = cut(self.depthwise.weight, channels, 1)
        for large, small in zip(self.kernel_sizes, self.kernel_sizes[1:], strict=False):
            if kernel_size >= large:
                break
            kernel = center(kernel, small)
            if self.kernel_transforms:
                flat = kernel.reshape(channels, small**2)
                kernel = F.linear(flat, self.kernel_transforms[f"{large}to{small}"]).view(channels, 1, small, small)
        return kernel


class ElasticBottleneck(Elastic):
    """Bottleneck with elastic expansion, input and output width: reduce, convolve, expand, add, activate.

    ResNet-D's shortcut (He et al. 2019) where the shape changes: average pooling, 1x1 convolution, batch norm. Where
    layers are quantised, the weights of every number of bits come from the same ones; each number of activation bits
    clips its activations at points of its own.
    """

    def __init__(self, choices: Sequence[Layer]) -> None:
        super().__init__()
        inside, outside = most_channels(choices)
        hidden, eps, k = max(layer.hidden_channels for layer in choices), choices[0].bn_eps, choices[0].kernel_size
        self.reduce = nn.Conv2d(inside, hidden, 1, bias=False)
        self.reduce_bn = batch_norm(hidden, eps)
        self.middle = nn.Conv2d(hidden, hidden, k, padding=k // 2, bias=False)
        self.middle_bn = batch_norm(hidden, eps)
        self.project = nn.Conv2d(hidden, outside, 1, bias=False)
        self.project_bn = batch_norm(outside, eps)
        if any(layer.shortcut_conv for layer in choices):
            self.shortcut = nn.Conv2d(inside, outside, 1, bias=False)
            self.shortcut_bn = batch_norm(outside, eps)
        if choices[0].quantized:
            self.bits = sorted({layer.activation_bits for layer in choices})
            self.clips = nn.Parameter(torch.full((len(CLIPPED), len(self.bits)), FIRST_CLIP))

    def forward(self, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:
        """Return the block's output; `keep` (N, 1, 1, 1) scales its residual branch for each image."""
        state, source, eps = self.active_state(layer), x, layer.bn_eps
        if layer.quantized:
            x = read = clipped_activation(x, state["input_clip"], layer.activation_bits)
        else:
            read = source
        x = normalize(self, pointwise(x, state["reduce.weight"]), state, "reduce_bn", eps)
        x = activate_inside(layer, x, state.get("reduce_clip"))
        x = F.conv2d(x, state["middle.weight"], stride=layer.stride, padding=layer.kernel_size // 2)
        x = activate_inside(layer, normalize(self, x, state, "middle_bn", eps), state.get("middle_clip"))
        x = normalize(self, pointwise(x, state["project.weight"]), state, "project_bn", eps)
        if keep is not None and not layer.projected:
            x = x * keep
        if layer.projected:
            stride = layer.stride if layer.downsample == "conv" else 1
            source = F.conv2d(downsample(read, layer), state["shortcut.weight"], stride=stride)
            source = normalize(self, source, state, "shortcut_bn", eps)
        return activate(layer.activation, x + source)

    def active_state(self, layer: Layer) -> State:
        inside, hidden, outside = layer.in_channels, layer.hidden_channels, layer.out_channels
        state = {"reduce.weight": cut(self.reduce.weight, hidden, inside)}
        state |= batch_norm_slices(self.reduce_bn, "reduce_bn", hidden)
        state["middle.weight"] = cut(self.middle.weight, hidden, hidden)
        state |= batch_norm_slices(self.middle_bn, "middle_bn", hidden)
        state["project.weight"] = cut(self.project.weight, outside, hidden)
        state |= batch_norm_slices(self.project_bn, "project_bn", outside)
        if layer.shortcut_conv:
            state["shortcut.weight"] = cut(self.shortcut.weight, outside, inside)
            state |= batch_norm_slices(self.shortcut_bn, "shortcut_bn", outside)
        if layer.quantized:
            weights = {k: quantized_weight(v, layer.weight_bits) for k, v in state.items() if v.ndim == 4}
            column = self.bits.index(layer.activation_bits)
            state |= weights | {name: self.clips[row, column] for row, name in enumerate(CLIPPED)}
        return state
