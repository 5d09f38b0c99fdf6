"""convert: a user's network and its weights to a space file and a supernet that training starts from."""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from ofa_kit.arch.layers import macs
from ofa_kit.arch.space import SearchSpace
from ofa_kit.arch.space_file import SPACE_FILE, write_space
from ofa_kit.errors import ConvertError, RunError, UnknownNameError
from ofa_kit.supernet.convert import Converted, convert
from ofa_kit.supernet.mit_weights import read_weights
from ofa_kit.supernet.strict import listed, misfits
from ofa_kit.training import checkpoint

WEIGHTS_FILE = "supernet.safetensors"
ADVICE = "give the weights of this very model, or package.module:function that builds the one they are of"
EXAMPLE = "torchvision:mobilenet_v3_large or package.module:function"


@dataclass(frozen=True, kw_only=True)
class ConvertedModel:
    """What was written, and how far the largest subnet is from the model."""

    space_path: Path
    weights_path: Path
    converted: Converted

    @property
    def space(self) -> SearchSpace:
        return self.converted.space

    @property
    def macs_m(self) -> tuple[float, float]:
        """Multiply-adds of the smallest and the largest subnet, in millions."""
        low, high = (macs(self.space, arch) / 1e6 for arch in (self.space.smallest(), self.space.largest()))
        return low, high


def convert_model(model: str, folder: Path, *, resolutions: Sequence[int], weights: Path | None) -> ConvertedModel:
    """Write space.yaml and supernet.safetensors of the network that `model` names in `folder`."""
    space_path, weights_path = folder / SPACE_FILE, folder / WEIGHTS_FILE
    taken = [path for path in (space_path, weights_path, folder / "config.yaml") if path.exists()]
    if taken:
        raise RunError(f"'{taken[0]}' exists; choose another --run NAME")
    net = build_model(model)
    if weights is not None:
        _load(net, weights)
    converted = convert(net, resolutions=resolutions, name=f"{model.rpartition(':')[2]}-converted")
    space, state = converted.space, converted.supernet.state_dict()
    facts = {
        "space": space.name,
        "space_fingerprint": space.fingerprint,
        "weights_hash": checkpoint.weights_hash(state),
    }
    write_space(space_path, space)
    checkpoint.save(weights_path, state, facts)
    return ConvertedModel(
        space_path=space_path,
        weights_path=weights_path,
        converted=converted,
    )


def build_model(name: str) -> nn.Module:
    """Return the network of `torchvision:NAME` (random weights) or of an importable function without arguments."""
    package, colon, function = name.partition(":")
    if not package or not colon or not function:
        raise ConvertError(f"a model is given as {EXAMPLE}, found '{name}'")
    if package == "torchvision":
        return _torchvision_model(function)
    made = _imported(package, function)()
    if not isinstance(made, nn.Module):
        raise ConvertError(f"'{name}' returned {type(made).__name__}, expected a torch.nn.Module")
    return made


def _torchvision_model(name: str) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UnknownNameError("torchvision model", name, known)
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model


def _imported(package: str, name: str) -> Callable[[], Any]:
    """Import the function; modules of the current folder come first, as with `python -m`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ConvertError(f"cannot import '{package}': {error}; a model is given as {EXAMPLE}") from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownNameError(f"function in '{package}':", name, functions)
    return cast(Callable[[], Any], found)


def _load(net: nn.Module, path: Path) -> None:
    """Load the weights strictly; a ConvertError names what does not fit."""
    found, own = read_weights(path), net.state_dict()
    problems = misfits(own, found)
    if any(problems.values()):
        raise ConvertError(f"'{path}' does not fit the model: {listed(problems)}; {ADVICE}")
    net.load_state_dict(found)
