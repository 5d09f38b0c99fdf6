"""Counting what many subnets classify correctly in one pass over the images, in PyTorch or ONNX Runtime.

What begins several subnets alike runs once, as it would run for each alone: every subnet gets the same bits in any
company.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import layers
from ofa_kit.arch.space import SearchSpace
from ofa_kit.data.batches import Batch
from ofa_kit.export.onnx_export import export, folded_weights
from ofa_kit.latency.backends.onnxruntime import OrtBackend
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.supernet.static import PooledConv
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import resize
from ofa_kit.training.measure_onnx import joined

ACTIVATION_BYTES = 2**24
"""Largest activation of a batch: larger ones leave the processor's caches, and freed blocks of 32 MiB are not kept."""
SQUEEZE = ("se_reduce", "se_expand")
Outputs = Iterator[tuple[Subnet, Tensor]]
"""Subnets with their logits (N, classes)."""
Forward = Callable[[Tensor], Outputs]
"""Runs subnets of one resolution on images (N, C, R, R)."""
Runtime = Callable[[Sequence[Subnet]], Forward]
"""Prepares recalibrated subnets of one supernet and one resolution."""


@torch.inference_mode()
def count_correct(subnets: Sequence[Subnet], batches: Callable[[int], Iterable[Batch]], runtime: Runtime) -> list[int]:
    """Return for each subnet the number of images that it classifies correctly; `batches` takes their size."""
    by_resolution: dict[int, list[Subnet]] = {}
    for subnet in subnets:
        by_resolution.setdefault(subnet.arch.resolution, []).append(subnet)
    correct = {id(subnet): 0 for subnet in subnets}
    for resolution, group in by_resolution.items():
        forward = runtime(group)
        for images, labels in batches(batch_size(group[0].space, resolution)):
            for subnet, logits in forward(resize(images, resolution)):
                correct[id(subnet)] += int((logits.argmax(1) == labels).sum())
    return [correct[id(subnet)] for subnet in subnets]


def batch_size(space: SearchSpace, resolution: int) -> int:
    """Return how many images of a resolution to run at once so that no activation of any subnet is too large."""
    net = layers(space, replace(space.largest(), resolution=resolution))
    elements = max(max(layer.hidden_channels, layer.in_channels) * layer.input_size**2 for layer in net)
    return max(1, ACTIVATION_BYTES // (4 * elements))


def in_pytorch(subnets: Sequence[Subnet]) -> Forward:
    """Return PyTorch's forward pass, with the subnets' batch norms folded into their convolutions."""
    for subnet in subnets:
        _fold(subnet)
    return lambda images: _walk(subnets, 0, images.contiguous(memory_format=torch.channels_last))


def in_onnxruntime(subnets: Sequence[Subnet]) -> Forward:
    """Return the forward pass of the exported models, joined, in ONNX Runtime on the CPU with one thread."""
    model = joined([export(subnet, batch=None) for subnet in subnets])
    backend = OrtBackend(DeviceProfile(name="accuracy", backend="onnxruntime"))
    session = backend.load(model.SerializeToString()).session
    name = model.graph.input[0].name

    def forward(images: Tensor) -> Outputs:
        outputs = session.run(None, {name: images.contiguous().numpy()})
        return zip(subnets, map(torch.from_numpy, outputs), strict=True)

    return forward


def _walk(group: Sequence[Subnet], index: int, x: Tensor) -> Outputs:
    """Run the layers from `index` on, each common one once, in the first subnet of those that share it."""
    if index == len(group[0].specs):
        yield from ((subnet, x) for subnet in group)
        return
    alike: dict[Layer, list[Subnet]] = {}
    for subnet in group:
        alike.setdefault(subnet.specs[index], []).append(subnet)
    for layer, members in alike.items():
        yield from _walk(members, index + 1, members[0].layers[layer.name](x))


@torch.no_grad()
def _fold(subnet: Subnet) -> None:
    """Fold each batch norm into the convolution before it, as the exported model has it."""
    for layer in subnet.layers.values():
        folded = folded_weights(layer)
        for name, child in list(layer.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(layer, name, nn.Identity())
            elif isinstance(child, nn.Conv2d):
                weight, bias = torch.from_numpy(folded[f"{name}.weight"]), folded.get(f"{name}.bias")
                child.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
                child.bias = None if bias is None else nn.Parameter(torch.from_numpy(bias))
                if name in SQUEEZE or isinstance(layer, PooledConv):
                    setattr(layer, name, _PooledProduct(child))


class _PooledProduct(nn.Module):
    """A 1x1 convolution of pooled features (N, C, 1, 1) as the matrix product that it is: half the time on CPU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
