"""Static layers: the ordinary modules that an extracted subnet is made of."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ofa_kit.arch.layer import Layer
from ofa_kit.arch.units import UnitConv
from ofa_kit.supernet.elastic import activate, batch_norm, downsample, gate
from ofa_kit.supernet.elastic_units import parts_of, unit_modules
from ofa_kit.supernet.quantize import CLIPPED, FIRST_CLIP, activate_inside, clipped_activation


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation, shortcut where the layer has one."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        k = layer.kernel_size
        self.layer = layer
        self.conv = nn.Conv2d(layer.in_channels, layer.out_channels, k, layer.stride, k // 2, bias=False)
        self.bn = batch_norm(layer.out_channels, layer.bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        y = activate(self.layer.activation, self.bn(self.conv(x)))
        return y + x if self.layer.shortcut else y


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project, shortcut: each where the layer has it."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        hidden, k, eps = layer.hidden_channels, layer.kernel_size, layer.bn_eps
        if layer.expands:
            self.expand = nn.Conv2d(layer.in_channels, hidden, 1, bias=False)
            self.expand_bn = batch_norm(hidden, eps)
        self.depthwise = nn.Conv2d(hidden, hidden, k, layer.stride, k // 2, groups=hidden, bias=False)
        self.depthwise_bn = batch_norm(hidden, eps)
        if layer.squeeze_channels:
            self.se_reduce = nn.Conv2d(hidden, layer.squeeze_channels, 1)
            self.se_expand = nn.Conv2d(layer.squeeze_channels, hidden, 1)
        self.project = nn.Conv2d(hidden, layer.out_channels, 1, bias=False)
        self.project_bn = batch_norm(layer.out_channels, eps)
        if layer.shortcut_conv:
            self.shortcut = nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        source, layer = x, self.layer
        if layer.expands:
            x = activate(layer.activation, self.expand_bn(self.expand(x)))
        x = activate(layer.activation, self.depthwise_bn(self.depthwise(x)))
        if layer.squeeze_channels:
            squeezed = activate(layer.squeeze_activation, self.se_reduce(x.mean((2, 3), keepdim=True)))
            x = x * gate(layer.gate, self.se_expand(squeezed))
        x = self.project_bn(self.project(x))
        if not layer.shortcut:
            return x
        if layer.projected:
            source = downsample(source, layer)
        return x + (self.shortcut(source) if layer.shortcut_conv else source)


class Bottleneck(nn.Module):
    """Reduce, convolve, expand, add the input or its projection, activate.

    A quantised one rounds what its convolutions read; its weights are extracted with few values already.
    """

    input_clip: nn.Parameter | None
    reduce_clip: nn.Parameter | None
    middle_clip: nn.Parameter | None

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        inside, hidden, outside = layer.in_channels, layer.hidden_channels, layer.out_channels
        k, eps = layer.kernel_size, layer.bn_eps
        self.reduce = nn.Conv2d(inside, hidden, 1, bias=False)
        self.reduce_bn = batch_norm(hidden, eps)
        self.middle = nn.Conv2d(hidden, hidden, k, layer.stride, k // 2, bias=False)
        self.middle_bn = batch_norm(hidden, eps)
        self.project = nn.Conv2d(hidden, outside, 1, bias=False)
        self.project_bn = batch_norm(outside, eps)
        if layer.shortcut_conv:
            stride = layer.stride if layer.downsample == "conv" else 1
            self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.shortcut_bn = batch_norm(outside, eps)
        for name in CLIPPED:
            self.register_parameter(name, nn.Parameter(torch.tensor(FIRST_CLIP)) if layer.quantized else None)

    def forward(self, x: Tensor) -> Tensor:
        source, layer = x, self.layer
        if self.input_clip is not None:
            x = clipped_activation(x, self.input_clip, layer.activation_bits)
        read = x
        x = activate_inside(layer, self.reduce_bn(self.reduce(x)), self.reduce_clip)
        x = activate_inside(layer, self.middle_bn(self.middle(x)), self.middle_clip)
        x = self.project_bn(self.project(x))
        if layer.projected:
            source = self.shortcut_bn(self.shortcut(downsample(read, layer)))
        return activate(layer.activation, x + source)


class Unit(nn.Module):
    """ShuffleNetV2-style unit: a short and a main branch, concatenated."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        for name, module in unit_modules(layer).items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        kept, convolved = parts_of(x, self.layer)
        return torch.cat(
            (self._run(self.layer.branches.short, kept), self._run(self.layer.branches.main, convolved)), 1
        )

    def _run(self, convs: Sequence[UnitConv], x: Tensor) -> Tensor:
        for conv in convs:
            y = getattr(self, f"{conv.part}_bn")(getattr(self, conv.part)(x))
            x = activate(conv.activation, y)
        return x


class PooledConv(nn.Module):
    """Global average pool, 1x1 convolution, activation."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=layer.bias)
        self.activation = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.activation, self.conv(x.mean((2, 3), keepdim=True)))


class Classifier(nn.Linear):
    """Features (N, C, H, W), averaged over pixels, to logits (N, classes)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.in_channels, layer.out_channels, bias=layer.classifier_bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean((2, 3)))


class MaxPool(nn.MaxPool2d):
    """3x3 max pooling with stride 2."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.kernel_size, layer.stride, layer.kernel_size // 2)


MODULES: dict[str, Callable[[Layer], nn.Module]] = {
    "conv": ConvBlock,
    "max_pool": MaxPool,
    "inverted_residual": InvertedResidual,
    "bottleneck": Bottleneck,
    "shuffle": Unit,
    "xception": Unit,
    "pooled_conv": PooledConv,
    "linear": Classifier,
}


def static(layer: Layer) -> nn.Module:
    """Return the module of a static layer, freshly initialised."""
    return MODULES[layer.op](layer)
