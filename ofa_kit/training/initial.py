"""Starting weights: those of another run or file of the same space; only the classifier may differ."""

from pathlib import Path

from ofa_kit.errors import RunError
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training import checkpoint

MAY_DIFFER = "layers.classifier."
SHOWN = 8


def load_initial(supernet: Supernet, source: str) -> list[str]:
    """Fill the supernet from a run folder or a .safetensors file; return the names that kept their fresh values.

    A RunError lists what is missing, unexpected or of another shape. The classifier of other classes stays fresh.
    """
    path = Path(source)
    path = path / "supernet.safetensors" if path.is_dir() else path
    found, own = checkpoint.load(path)[0], supernet.state_dict()
    wrong = {name for name, value in own.items() if name in found and found[name].shape != value.shape}
    fresh = sorted(name for name in wrong if name.startswith(MAY_DIFFER))
    problems = {
        "missing": sorted(own.keys() - found.keys()),
        "unexpected": sorted(found.keys() - own.keys()),
        "of another shape": sorted(wrong - set(fresh)),
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {kind}: {_shown(names)}" for kind, names in problems.items() if names)
        raise RunError(f"'{path}' does not hold the weights of the space '{supernet.space.name}': {listed}")
    if fresh:
        fresh = [name for name in own if name.startswith(MAY_DIFFER)]
    supernet.load_state_dict({name: own[name] if name in fresh else found[name] for name in own})
    return fresh


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
