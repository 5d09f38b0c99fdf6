"""search enas of networks for images: what cells and whole networks have in common, from the recipe to the result."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from ofa_kit.commands.cells_found import RESULT, alone, open_times
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import Dataset
from ofa_kit.data.sources import open_dataset
from ofa_kit.nas.enas.derive import derive
from ofa_kit.nas.enas.recipe import EnasRecipe
from ofa_kit.nas.enas.search import SharedSearch
from ofa_kit.nas.run import WorkFolder
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.distributed import Team, leave
from ofa_kit.training.epochs import Seen, work_through

COMMAND = "search enas"
ARC, DERIVED = "arc.txt", "derived.csv"


class Measured(Protocol):
    """Measured parts of networks."""

    @property
    def mape(self) -> float: ...
    @property
    def networks(self) -> int: ...


R = TypeVar("R", bound=EnasRecipe)
A = TypeVar("A")
M = TypeVar("M", bound=Measured)
F = TypeVar("F")


class ImageSearch(ABC, Generic[R, A, M, F]):
    """What is searched: recipe, architectures, measured latency and what is found."""

    recipe: ClassVar[type[Any]]
    timed: ClassVar[str]
    """What latency is added up from."""

    @abstractmethod
    def about(self, recipe: R) -> str:
        """Return what is searched, in a few words."""

    @abstractmethod
    def measure(self, work: WorkFolder[R], times: Times, reporter: Reporter) -> M:
        """Time what predicts the latency of the recipe's network."""

    @abstractmethod
    def begun(self, work: WorkFolder[R], dataset: Dataset, team: Team, measured: M | None) -> SharedSearch[A]:
        """Return the search at its start."""

    def note(self, row: Mapping[str, object]) -> str:
        """Return what is said of an epoch beside loss, reward and entropy."""
        return ""

    @abstractmethod
    def finished(self, work: WorkFolder[R], arch: A, epochs: int, measured: M | None, reporter: Reporter) -> F:
        """Measure, draw and write down what was found."""

    @abstractmethod
    def found(self, work: WorkFolder[R]) -> F:
        """Return what a finished search wrote."""


def search_images(
    kind: ImageSearch[R, A, M, F],
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> F:
    """Search as the recipe `values` say, in `folder`, or go on with the search begun there."""
    reporter = reporter or Silent()
    work, dataset = WorkFolder[R].prepared(
        values, folder, kind.recipe.parse, _open, source=source, resume=resume, command=COMMAND
    )
    if (folder / RESULT).exists():
        reporter.say(f"search '{folder}' is finished already")
        return kind.found(work)
    prepare_torch()
    team = alone(work.recipe.accelerator, COMMAND)
    try:
        measured = _measured(kind, work, reporter)
        search = kind.begun(work, dataset, team, measured)
        epochs = _search(kind, work, search, reporter)
        arch = derive(search, folder / DERIVED, reporter)
        return kind.finished(work, arch, epochs, measured, reporter)
    except KeyboardInterrupt:
        reporter.say(f"stopped; go on with `ofa-kit {COMMAND} --run {work.folder} --resume`")
        raise
    finally:
        leave()


def _open(recipe: EnasRecipe) -> Dataset:
    return open_dataset(recipe.data, photo_size=recipe.image_size)


def _measured(kind: ImageSearch[R, A, M, F], work: WorkFolder[R], reporter: Reporter) -> M | None:
    device = work.recipe.device
    if not device:
        return None
    found = kind.measure(work, open_times(work.folder, device), reporter)
    reporter.say(
        f"latency on {device}: {kind.timed} measured; networks left out of the fit are predicted within "
        f"{found.mape:.1f} % on average ({found.networks} measured)"
    )
    return found


def _search(kind: ImageSearch[R, A, M, F], work: WorkFolder[R], search: SharedSearch[A], reporter: Reporter) -> int:
    """Run the epochs and return how many there were."""
    recipe = work.recipe
    reporter.say(
        f"searching {kind.about(recipe)}, "
        f"{len(search.learned.labels)} images for weights and {len(search.held.labels)} for rewards of {recipe.data}, "
        f"{search.device.type}"
    )
    with reporter.task("search", search.epochs * search.steps_per_epoch) as advance:

        def watch(seen: Seen) -> None:
            advance(seen.done_steps, ", ".join(f"{name} {seen.losses[name]:.3f}" for name in list(seen.losses)[:1]))
            for row in (seen.rows or {}).get(search.metrics, ()):
                reporter.say(
                    f"epoch {row['epoch']}: train loss {row['train_loss']}, reward {row['reward']}, entropy "
                    f"{row['entropy']} nats{kind.note(row)}"
                    + (f", {row['sampled_ms_predicted']} ms on average (predicted)" if search.latency_ms else "")
                )

        return work_through(search, work.checkpoint, checkpoint_s=recipe.checkpoint_s, watch=watch).epoch
