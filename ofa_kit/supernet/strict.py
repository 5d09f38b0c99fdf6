"""Strict loading: what keeps one state dict from fitting another, all of it at once."""

from collections.abc import Mapping

from torch import Tensor

from ofa_kit.errors import some_of


def misfits(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the names that are missing, unexpected or of another shape in `found`, by kind."""
    return {
        "missing": sorted(own.keys() - found.keys()),
        "unexpected": sorted(found.keys() - own.keys()),
        "of another shape": sorted(name for name in own if name in found and found[name].shape != own[name].shape),
    }


def listed(problems: Mapping[str, list[str]]) -> str:
    """Return the kinds of problems that there are, with their numbers and first names."""
    return "; ".join(f"{len(names)} {kind}: {some_of(names, 8)}" for kind, names in problems.items() if names)
