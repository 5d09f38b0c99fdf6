"""Subnet: an ordinary PyTorch network made of static layers, and its extraction from a supernet."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import layers
from ofa_kit.arch.space import SearchSpace
from ofa_kit.supernet.static import static
from ofa_kit.supernet.supernet import Supernet


class Subnet(nn.Module):
    """One architecture as a plain network: images (N, C, R, R) to logits (N, classes)."""

    def __init__(self, space: SearchSpace, arch: ArchConfig, *, make: Callable[[Layer], nn.Module] = static) -> None:
        super().__init__()
        self.space, self.arch = space, arch
        self.specs: Sequence[Layer] = layers(space, arch)
        self.layers = nn.ModuleDict({layer.name: make(layer) for layer in self.specs})

    def forward(self, images: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        for layer in self.layers.values():
            x = layer(x)
        return x


def extract(supernet: Supernet, arch: ArchConfig) -> Subnet:
    """Return the subnet with its own copy of the weights; it computes what `supernet(images, arch)` computes."""
    subnet = Subnet(supernet.space, arch, make=_blank)
    with torch.no_grad():
        for layer in subnet.specs:
            _fill(subnet.layers[layer.name], supernet.elastic(layer).active_state(layer))
    return subnet.train(supernet.training)


def _blank(layer: Layer) -> nn.Module:
    """Return a module without tensors: making one anew, only to overwrite what it is filled with, takes longer."""
    return _shell(_on_meta(layer))


@lru_cache(maxsize=4096)
def _on_meta(layer: Layer) -> nn.Module:
    with torch.device("meta"):
        return static(layer)


def _shell(module: nn.Module) -> nn.Module:
    """Return a module of the same structure whose dictionaries are its own."""
    copy = module.__class__.__new__(module.__class__)
    copy.__dict__.update({k: v.copy() if isinstance(v, dict | set) else v for k, v in module.__dict__.items()})
    copy.__dict__["_modules"] = {name: _shell(child) for name, child in module.named_children()}
    return copy


def _fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a blank module copies of its tensors."""
    for name, tensor in state.items():
        owner, _, attribute = name.rpartition(".")
        holder = module.get_submodule(owner)
        dense = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
        copy = tensor.detach().clone(memory_format=dense)
        if attribute in holder._parameters:
            holder._parameters[attribute] = nn.Parameter(copy)
        else:
            holder._buffers[attribute] = copy
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child._buffers["num_batches_tracked"] = torch.tensor(0, device=child.weight.device)
