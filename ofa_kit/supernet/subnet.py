"""Subnet: an ordinary PyTorch network made of static layers, and its extraction from a supernet."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import layers
from ofa_kit.arch.space import SearchSpace
from ofa_kit.supernet.static import STATIC
from ofa_kit.supernet.supernet import Supernet


class Subnet(nn.Module):
    """One architecture as a plain network: images (N, C, R, R) to logits (N, classes)."""

    def __init__(self, space: SearchSpace, arch: ArchConfig) -> None:
        super().__init__()
        self.space, self.arch = space, arch
        self.specs: Sequence[Layer] = layers(space, arch)
        self.layers = nn.ModuleDict({layer.name: STATIC[layer.op](layer) for layer in self.specs})

    def forward(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        for layer in self.layers.values():
            x = layer(x)
        return x


def extract(supernet: Supernet, arch: ArchConfig) -> Subnet:
    """Return the subnet with its own copy of the weights; it computes what `supernet(images, arch)` computes."""
    with torch.device("meta"):
        subnet = Subnet(supernet.space, arch)
    with torch.no_grad():
        for layer in subnet.specs:
            _fill(subnet.layers[layer.name], supernet.elastic(layer).active_state(layer))
    return subnet.train(supernet.training)


def _fill(static: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a module on the meta device its tensors: copies, so that nothing is initialised only to be overwritten."""
    for name, tensor in state.items():
        owner, _, attribute = name.rpartition(".")
        module = static.get_submodule(owner)
        dense = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        copy = tensor.detach().clone(memory_format=dense)
        if attribute in module._parameters:
            setattr(module, attribute, nn.Parameter(copy))
        else:
            setattr(module, attribute, copy)
    for module in static.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.tensor(0, device=module.weight.device)
