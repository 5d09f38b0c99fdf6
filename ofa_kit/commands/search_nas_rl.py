"""search nas-rl: what a recipe's `kind` names is searched by a controller that learns from children's accuracy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ofa_kit.commands.search_nas_rl_cnn import COMMAND, search_cnn
from ofa_kit.commands.search_rl_recurrent import search_rl_recurrent
from ofa_kit.config import read_yaml
from ofa_kit.errors import OfaKitError, UnknownNameError
from ofa_kit.nas.nas_rl.engine import Engine, InThisProcess, Trainer
from ofa_kit.nas.nas_rl.engine_processes import SeveralProcesses
from ofa_kit.nas.nas_rl.engine_ray import RayEngine
from ofa_kit.nas.run import CONFIG
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.measure_ray import load_ray


class Found(Protocol):
    """What a search found, for a program and for a person."""

    def facts(self) -> dict[str, Any]: ...

    def lines(self) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """Where children are trained; their rewards do not depend on it."""

    engine: Literal["processes", "ray"] = "processes"
    processes: int | None = None
    """Of this machine, one core each; 0 = in this one, which a child that is killed then ends; None = 1."""

    def __post_init__(self) -> None:
        if self.engine == "ray" and self.processes is not None:
            raise OfaKitError("--processes is for --engine processes; a Ray cluster uses the cores that it has")
        if self.processes is not None and self.processes < 0:
            raise OfaKitError(f"--processes must be 0 or more, found {self.processes}")
        if self.engine == "ray":
            load_ray()  # before a folder is begun

    def open(self, trainer: Trainer, *, memory_mb: int, gpu: bool) -> Engine:
        """Return an engine."""
        if self.engine == "ray":
            return RayEngine(trainer, memory_mb=memory_mb, gpu=gpu)
        if self.processes == 0:
            if memory_mb:
                raise OfaKitError("a memory limit needs children in processes of their own; give --processes 1 or more")
            return InThisProcess(trainer)
        return SeveralProcesses(trainer, self.processes or 1, memory_mb=memory_mb)


Kind = Callable[..., Found]


def _recurrent(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str,
    resume: bool,
    open_engine: Callable[..., Engine],
    reporter: Reporter,
) -> Found:
    """Search a recurrent cell, whose children train in this process."""
    return search_rl_recurrent(values, folder, source=source, resume=resume, reporter=reporter)


KINDS: dict[str, Kind] = {"cnn": search_cnn, "recurrent": _recurrent}
"""What can be searched: (recipe values, folder, source=, resume=, open_engine=, reporter=) -> Found."""


def search_nas_rl(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    how: Training | None = None,
    reporter: Reporter | None = None,
) -> Found:
    """Search as the recipe `values` say, in `folder`, or go on with the search begun there."""
    given = dict(values)
    kind = str(given.pop("kind", None) or _begun(folder, resume) or "cnn")
    if kind not in KINDS:
        raise UnknownNameError("kind of network", kind, KINDS)
    if kind == "recurrent" and how not in (None, Training()):
        raise OfaKitError("recurrent cells train in this process one by one; leave out --engine and --processes")
    return KINDS[kind](
        given,
        folder,
        source=source,
        resume=resume,
        open_engine=(how or Training()).open,
        reporter=reporter or Silent(),
    )


def _begun(folder: Path, resume: bool) -> str | None:
    """Return the kind of the search in a folder to go on in; convolutional networks have no word of their own."""
    path = folder / CONFIG
    if not resume or not path.exists():
        return None
    kind = str(read_yaml(path).get("command")).removeprefix(COMMAND).strip()
    return kind if kind in KINDS else None
