"""Weights of MIT once-for-all's networks: files read without running code, loaded strictly, written back."""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ofa_kit import storage
from ofa_kit.arch.ofa_net_config import OFA_SPACES
from ofa_kit.errors import WeightsError, some_of
from ofa_kit.supernet.mit_names import Network, mit_names, plain_name
from ofa_kit.supernet.supernet import Supernet

Weights = dict[str, Tensor]
DAMAGED = (
    SafetensorError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    struct.error,
    pickle.UnpicklingError,
)
"""What readers raise on bytes that are no file of tensors."""
COUNTER = "num_batches_tracked"


def read_weights(path: Path) -> Weights:
    """Return the tensors of a file, that of MIT's checkpoints included; nothing in it is executed."""
    found: object
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot read '{path}': {error.strerror or error}") from error
    except DAMAGED as error:
        if "GLOBAL" in str(error):
            raise WeightsError(
                f"'{path}' holds Python objects, and opening those could run code: it was not opened. Ask its maker "
                "for tensors alone, as torch.save({'state_dict': net.state_dict()}, PATH) writes them"
            ) from error
        raise WeightsError(f"'{path}' is damaged or no file of tensors; fetch it again") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found:
        raise WeightsError(f"'{path}' holds no state dict; give the file of a network's weights")
    odd = [str(key) for key, value in found.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if odd:
        raise WeightsError(f"'{path}' holds entries that are no tensors: {some_of(odd)}; give a state dict alone")
    return dict(found)


def images_and_classes(weights: Weights, source: str) -> tuple[int, int]:
    """Return the number of input channels and of classes of MIT's network."""
    by_name = {plain_name(key): tensor for key, tensor in weights.items()}
    first = by_name.get("first_conv.conv.weight", by_name.get("input_stem.0.conv.weight"))
    classifier = by_name.get("classifier.linear.weight")
    if first is None or first.ndim != 4 or classifier is None or classifier.ndim != 2:
        raise WeightsError(
            f"'{source}' holds no network of MIT's once-for-all: it lacks first_conv or input_stem, or classifier; "
            f"it starts with {some_of(list(weights), 3)}"
        )
    return first.shape[1], classifier.shape[0]


def load_weights(net: Network, weights: Weights, source: str) -> None:
    """Copy MIT's tensors into a network; a WeightsError lists all that are missing, unexpected or of another shape."""
    wanted = {plain_name(name): key for key, name in mit_names(net).items()}
    given: dict[str, str] = {}
    for key in weights:
        other = given.setdefault(plain_name(key), key)
        if other != key:
            raise WeightsError(f"'{source}' holds one tensor under two names, '{other}' and '{key}'; delete one")
    own = net.state_dict()
    found = {wanted[name]: weights[key] for name, key in given.items() if name in wanted}
    missing = [name for name, key in wanted.items() if key not in found and not name.endswith(COUNTER)]
    unexpected = [key for name, key in given.items() if name not in wanted]
    misfits = [
        f"{given[name]} {_form(found[key])} instead of {_form(own[key])}"
        for name, key in wanted.items()
        if key in found and _form(found[key]) != _form(own[key])
    ]
    if missing or unexpected or misfits:
        _refuse(net, source, {"missing": missing, "unexpected": unexpected, "of another shape": misfits})
    counters = {key: torch.zeros_like(own[key]) for key in own if key.endswith(COUNTER)}
    net.load_state_dict(counters | found)


def mit_state(net: Network) -> Weights:
    """Return copies of a network's tensors under MIT's newest names."""
    own = net.state_dict()
    return {
        name: own[key].detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, name in mit_names(net).items()
    }


def save_weights(net: Network, path: Path) -> None:
    """Write a network as MIT's package reads it, in one step: .pth and .pth.tar, or .safetensors."""
    if not path.name.endswith((".pth", ".pth.tar", ".safetensors")):
        raise WeightsError(f"'{path}' must end with .pth, .pth.tar or .safetensors")
    state = mit_state(net)
    with storage.replacing(path) as temporary:
        if path.suffix == ".safetensors":
            save_file(state, temporary)
        else:
            torch.save({"state_dict": state}, temporary)


def _form(tensor: Tensor) -> str:
    """Return the shape, and the type where it holds no real numbers."""
    shape = f"({', '.join(str(size) for size in tensor.shape)})"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _refuse(net: Network, source: str, problems: Mapping[str, list[str]]) -> None:
    """Raise the WeightsError that lists every kind of problem, and says what fits such a file."""
    lists = [f"{len(names)} {kind}: {some_of(names)}" for kind, names in problems.items() if names]
    if not isinstance(net, Supernet):
        what, advice = f"architecture {net.arch}", "give the net.config that came with the file"
    elif problems["missing"] and all(name.endswith("_matrix") for name in problems["missing"]):
        what, advice = "supernet", "a network without kernel matrices is static: give its net.config instead"
    else:
        what, advice = "supernet", f"choose the space of the file, one of: {', '.join(OFA_SPACES)}"
    raise WeightsError(f"'{source}' does not fit the {what} of '{net.space.name}': {'; '.join(lists)}. {advice}")
