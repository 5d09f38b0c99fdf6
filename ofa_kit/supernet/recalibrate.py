"""Batch norm recalibration: statistics of a subnet's own activations (Yu & Huang 2019; Cai et al. 2020).

Each batch is normalised with its own statistics; means and biased variances are averaged by batch size. What a layer
sees then depends on the layers before it alone, so subnets of one supernet share the work of a common beginning.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ofa_kit.arch.layer import Layer
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import resize

AFTER_ALL_NORMS = ("pooled_conv", "linear")


def recalibrate(subnet: Subnet, batches: Iterable[Tensor]) -> Subnet:
    """Set the BN statistics of `subnet` from batches of training images (N, C, H, W), resized to its resolution."""
    return recalibrate_together([subnet], batches)[0]


@torch.no_grad()
def recalibrate_together(subnets: Sequence[Subnet], batches: Iterable[Tensor]) -> Sequence[Subnet]:
    """Recalibrate subnets of the same supernet in one pass over the images; each gets what it would get alone."""
    by_resolution: dict[int, list[Subnet]] = {}
    for subnet in subnets:
        by_resolution.setdefault(subnet.arch.resolution, []).append(subnet.eval())
    sums = {id(norm): _Sums.of(norm) for subnet in subnets for norm in _norms(subnet)}
    device = next(subnets[0].parameters()).device
    with _Counting(sums.values()):
        for images in batches:
            for resolution, group in by_resolution.items():
                x = resize(images.to(device), resolution).contiguous(memory_format=torch.channels_last)
                _walk(group, 0, x)
    for group in by_resolution.values():
        for leader, follower in _shared_layers(group):
            for own, theirs in zip(_norms(follower), _norms(leader), strict=True):
                sums[id(own)] = sums[id(theirs)]
    for subnet in subnets:
        for norm in _norms(subnet):
            sums[id(norm)].write(norm)
    return subnets


def top1(subnet: Subnet, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of correctly classified images in percent."""
    device, size = next(subnet.parameters()).device, subnet.arch.resolution
    return percent_correct(subnet, ((resize(images.to(device), size), labels) for images, labels in batches))


@torch.no_grad()
def percent_correct(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images that a network in evaluation mode classifies correctly, in percent."""
    network.eval()
    device = next(network.parameters()).device
    correct = total = 0
    for images, labels in batches:
        logits = network(images.to(device))
        correct += int((logits.argmax(1).cpu() == labels).sum())
        total += len(labels)
    return 100.0 * correct / total


@dataclass
class _Sums:
    """Statistics of one batch norm, summed over batches and weighted by their sizes."""

    norm: nn.BatchNorm2d
    mean: Tensor
    variance: Tensor
    images: int = 0

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "_Sums":
        return cls(norm, torch.zeros_like(norm.weight), torch.zeros_like(norm.weight))

    def normalize(self, x: Tensor) -> Tensor:
        """Normalise a batch, fresh from a convolution, in place with its own statistics, and count these.

        Two plain passes over the values take two thirds of the time of PyTorch's batch norm (CPU, channels last).
        """
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        self.mean += mean * len(x)
        self.variance += variance * len(x)
        self.images += len(x)
        scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        shift = self.norm.bias - mean * scale
        return x.mul_(scale[:, None, None]).add_(shift[:, None, None])

    def write(self, norm: nn.BatchNorm2d) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.zero_()
        norm.running_mean.copy_(self.mean / self.images)
        norm.running_var.copy_(self.variance / self.images)


class _Counting:
    """Let each batch norm normalise with the statistics of the batch, and count them."""

    def __init__(self, sums: Iterable[_Sums]) -> None:
        self.sums = sums

    def __enter__(self) -> None:
        for sums in self.sums:
            sums.norm.forward = sums.normalize  # type: ignore[method-assign, assignment]

    def __exit__(self, *error: object) -> None:
        for sums in self.sums:
            del sums.norm.forward


def _norms(module: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (child for child in module.modules() if isinstance(child, nn.BatchNorm2d))


def _walk(group: Sequence[Subnet], index: int, x: Tensor) -> None:
    """Run the layers from `index` on, each common one once, in the first subnet of those that share it."""
    for layer, members in _by_layer(group, index).items():
        if layer.op not in AFTER_ALL_NORMS:
            _walk(members, index + 1, members[0].layers[layer.name](x))


def _shared_layers(group: Sequence[Subnet], index: int = 0) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield (layer that ran, layer that stands in the same place of another subnet)."""
    for layer, members in _by_layer(group, index).items():
        for other in members[1:]:
            yield members[0].layers[layer.name], other.layers[layer.name]
        if layer.op not in AFTER_ALL_NORMS:
            yield from _shared_layers(members, index + 1)


def _by_layer(group: Sequence[Subnet], index: int) -> dict[Layer, list[Subnet]]:
    found: dict[Layer, list[Subnet]] = {}
    for subnet in group:
        found.setdefault(subnet.specs[index], []).append(subnet)
    return found
