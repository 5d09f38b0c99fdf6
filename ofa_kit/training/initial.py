"""Starting weights: those of another run or file of the same space; only the classifier may differ."""

from pathlib import Path

from ofa_kit.errors import RunError
from ofa_kit.supernet.strict import listed, misfits
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training import checkpoint

CLASSIFIER = "layers.classifier."


def load_initial(supernet: Supernet, source: str) -> list[str]:
    """Fill the supernet from a run folder or a .safetensors file; return the names that kept their fresh values.

    A RunError lists what is missing, unexpected or of another shape. The classifier of other classes stays fresh.
    """
    path = Path(source)
    path = path / "supernet.safetensors" if path.is_dir() else path
    found, own = checkpoint.load(path)[0], supernet.state_dict()
    problems = misfits(own, found)
    other_classes = any(name.startswith(CLASSIFIER) for name in problems["of another shape"])
    fresh = [name for name in own if other_classes and name.startswith(CLASSIFIER)]
    problems["of another shape"] = [name for name in problems["of another shape"] if name not in fresh]
    if any(problems.values()):
        raise RunError(
            f"'{path}' does not hold the weights of the space '{supernet.space.name}': {listed(problems)}; "
            "give the weights of a run of this space"
        )
    supernet.load_state_dict({name: own[name] if name in fresh else found[name] for name in own})
    return fresh
