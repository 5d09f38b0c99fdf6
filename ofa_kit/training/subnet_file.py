"""A subnet's weights in one safetensors file, with its space and architecture in the header: no pickle, no guessing."""

from pathlib import Path

import torch

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.space_file import space_from_dict, space_to_dict
from ofa_kit.errors import RunError
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.training import checkpoint


def save_subnet(path: Path, subnet: Subnet) -> None:
    """Write the weights of a subnet, batch norm statistics included."""
    facts = {"space": space_to_dict(subnet.space), "arch": subnet.arch.to_row(), "arch_key": subnet.arch.key}
    checkpoint.save(path, subnet.state_dict(), facts)


def load_subnet(path: Path) -> Subnet:
    """Return the subnet in a file of `save_subnet`, in evaluation mode; a RunError when it holds none."""
    tensors, facts = checkpoint.load(path)
    if not isinstance(facts.get("space"), dict) or not isinstance(facts.get("arch"), dict):
        raise RunError(f"'{path}' holds no subnet: its header names no space and architecture")
    subnet = Subnet(space_from_dict(facts["space"], str(path)), ArchConfig.from_row(facts["arch"]))
    try:
        subnet.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"'{path}' does not hold the weights its header says: {' '.join(str(error).split())}") from error
    return subnet.to(memory_format=torch.channels_last).eval()
