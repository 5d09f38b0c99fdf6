"""Elastic layers: full-size weights, and for each static layer the slices of them that it uses.

`active_state(layer)` names the slices exactly as the static module of that layer names its tensors, so extraction
copies them and the elastic forward computes with them: there is one place that says which weights a subnet has.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.layers import Layer

BN_EPS = 1e-5
BN_MOMENTUM = 0.1
State = dict[str, Tensor]


class ElasticConv(nn.Module):
    """Convolution without bias, batch norm and activation; nothing elastic but the input size."""

    def __init__(self, largest: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            largest.in_channels, largest.out_channels, largest.kernel_size, padding=largest.kernel_size // 2, bias=False
        )
        self.bn = batch_norm(largest.out_channels)

    def forward(self, x: Tensor, layer: Layer) -> Tensor:
        state = self.active_state(layer)
        x = F.conv2d(x, state["conv.weight"], stride=layer.stride, padding=layer.kernel_size // 2)
        return activate(layer.activation, normalize(x, state, "bn", self.training))

    def active_state(self, layer: Layer) -> State:
        return {"conv.weight": self.conv.weight, **batch_norm_slices(self.bn, "bn", layer.out_channels)}


class ElasticInvertedResidual(nn.Module):
    """Inverted residual (Sandler et al. 2018) with elastic kernel size and expansion, as in once-for-all.

    Width: always the first n hidden channels, squeeze-and-excite too. Kernel: the centre of the next larger kernel,
    flattened row by row, times a learned matrix that starts as the identity; 7 -> 5 -> 3 are chained.
    """

    def __init__(self, largest: Layer, kernel_sizes: tuple[int, ...]) -> None:
        super().__init__()
        hidden, self.kernel_sizes = largest.hidden_channels, tuple(sorted(kernel_sizes, reverse=True))
        if largest.expands:
            self.expand = nn.Conv2d(largest.in_channels, hidden, 1, bias=False)
            self.expand_bn = batch_norm(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, largest.kernel_size, groups=hidden, bias=False)
        self.depthwise_bn = batch_norm(hidden)
        self.kernel_transforms = nn.ParameterDict(
            {
                f"{large}to{small}": nn.Parameter(torch.eye(small**2))
                for large, small in zip(self.kernel_sizes, self.kernel_sizes[1:], strict=False)
            }
        )
        if largest.squeeze_excite:
            self.se_reduce = nn.Conv2d(hidden, largest.squeeze_channels, 1)
            self.se_expand = nn.Conv2d(largest.squeeze_channels, hidden, 1)
        self.project = nn.Conv2d(hidden, largest.out_channels, 1, bias=False)
        self.project_bn = batch_norm(largest.out_channels)

    def forward(self, x: Tensor, layer: Layer) -> Tensor:
        state, identity = self.active_state(layer), x
        if layer.expands:
            x = F.conv2d(x, state["expand.weight"])
            x = activate(layer.activation, normalize(x, state, "expand_bn", self.training))
        # A kernel only ever meets offsets smaller than the map: what lies outside is padding times weight.
        kernel = center(state["depthwise.weight"], min(layer.kernel_size, 2 * layer.input_size - 1))
        x = F.conv2d(x, kernel, stride=layer.stride, padding=kernel.shape[-1] // 2, groups=layer.hidden_channels)
        x = activate(layer.activation, normalize(x, state, "depthwise_bn", self.training))
        if layer.squeeze_excite:
            gate = x.mean((2, 3), keepdim=True)
            gate = F.relu(F.conv2d(gate, state["se_reduce.weight"], state["se_reduce.bias"]))
            x = x * F.hardsigmoid(F.conv2d(gate, state["se_expand.weight"], state["se_expand.bias"]))
        x = normalize(F.conv2d(x, state["project.weight"]), state, "project_bn", self.training)
        return x + identity if layer.shortcut else x

    def active_state(self, layer: Layer) -> State:
        hidden, state = layer.hidden_channels, State()
        if layer.expands:
            state["expand.weight"] = self.expand.weight[:hidden]
            state |= batch_norm_slices(self.expand_bn, "expand_bn", hidden)
        state["depthwise.weight"] = self.kernel(layer.kernel_size, hidden)
        state |= batch_norm_slices(self.depthwise_bn, "depthwise_bn", hidden)
        if layer.squeeze_excite:
            middle = layer.squeeze_channels
            state["se_reduce.weight"] = self.se_reduce.weight[:middle, :hidden]
            state["se_reduce.bias"] = self.se_reduce.bias[:middle]  # type: ignore[index]
            state["se_expand.weight"] = self.se_expand.weight[:hidden, :middle]
            state["se_expand.bias"] = self.se_expand.bias[:hidden]  # type: ignore[index]
        state["project.weight"] = self.project.weight[:, :hidden]
        return state | batch_norm_slices(self.project_bn, "project_bn", layer.out_channels)

    def kernel(self, kernel_size: int, channels: int) -> Tensor:
        """Return the depthwise kernel (channels, 1, kernel_size, kernel_size)."""
        kernel = self.depthwise.weight[:channels]
        for large, small in zip(self.kernel_sizes, self.kernel_sizes[1:], strict=False):
            if kernel_size >= large:
                break
            flat = center(kernel, small).reshape(channels, small**2)
            kernel = F.linear(flat, self.kernel_transforms[f"{large}to{small}"]).view(channels, 1, small, small)
        return kernel


class ElasticPooledConv(nn.Module):
    """Global average pool, 1x1 convolution without bias and batch norm, activation."""

    def __init__(self, largest: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(largest.in_channels, largest.out_channels, 1, bias=False)

    def forward(self, x: Tensor, layer: Layer) -> Tensor:
        return activate(layer.activation, F.conv2d(x.mean((2, 3), keepdim=True), self.conv.weight))

    def active_state(self, layer: Layer) -> State:
        return {"conv.weight": self.conv.weight}


class ElasticLinear(nn.Linear):
    """The classifier: (N, C, 1, 1) features to logits."""

    def __init__(self, largest: Layer) -> None:
        super().__init__(largest.in_channels, largest.out_channels)

    def forward(self, x: Tensor, layer: Layer) -> Tensor:  # type: ignore[override]
        return F.linear(x.flatten(1), self.weight, self.bias)

    def active_state(self, layer: Layer) -> State:
        return {"weight": self.weight, "bias": self.bias}


ElasticLayer = ElasticConv | ElasticInvertedResidual | ElasticPooledConv | ElasticLinear


def center(kernel: Tensor, size: int) -> Tensor:
    """Return the central window of a (C_out, C_in, K, K) weight."""
    start = (kernel.shape[-1] - size) // 2
    return kernel[..., start : start + size, start : start + size]


def activate(kind: str, x: Tensor) -> Tensor:
    """Apply relu or hard_swish."""
    return F.relu(x) if kind == "relu" else F.hardswish(x)


def normalize(x: Tensor, state: State, name: str, training: bool) -> Tensor:
    """Batch norm with sliced parameters; training updates the sliced running statistics in place."""
    return F.batch_norm(
        x,
        state[f"{name}.running_mean"],
        state[f"{name}.running_var"],
        state[f"{name}.weight"],
        state[f"{name}.bias"],
        training,
        BN_MOMENTUM,
        BN_EPS,
    )


def batch_norm_slices(bn: nn.BatchNorm2d, name: str, channels: int) -> State:
    """Return the first `channels` of a batch norm's tensors, named after `name`."""
    tensors = {"weight": bn.weight, "bias": bn.bias, "running_mean": bn.running_mean, "running_var": bn.running_var}
    return {f"{name}.{key}": tensor[:channels] for key, tensor in tensors.items() if tensor is not None}


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with once-for-all's eps and momentum."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)
