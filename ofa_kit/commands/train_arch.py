"""train-arch: one architecture trained alone from scratch in a run of its own, then measured and exported."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ofa_kit.arch.arch_text import arch_from_text
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.single import only
from ofa_kit.arch.space import SearchSpace
from ofa_kit.arch.space_file import SPACE_FILE, find_space, write_space
from ofa_kit.commands.deploy import Deployment
from ofa_kit.commands.deploy_conversion import Conversion
from ofa_kit.commands.deploy_timed import deploy_timed
from ofa_kit.commands.measure_accuracy import add_row, open_evaluator
from ofa_kit.commands.profile import TABLES
from ofa_kit.commands.train_supernet import train_supernet
from ofa_kit.errors import RunError, TableError, UnknownNameError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.recipe import METHOD_KEYS, Recipe
from ofa_kit.training.run import Run

SOURCE = "train-arch"
KEY_DIGITS = 12
SHARED = {"space", "method", "bn_affine", "init_from", *(key for keys in METHOD_KEYS.values() for key in keys)}
"""What a recipe says of many subnets in one set of weights: it means nothing, or another thing, to one alone."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be trained alone."""

    space: SearchSpace
    """Of this one architecture."""
    of_space: str
    """The space it was chosen from: a name or a file."""
    recipe: Mapping[str, Any]
    """Where its recipe begins."""
    folder: Path
    """Of the run, where nothing else is said."""
    shared_top1: float | None = None
    """Validation top-1 in percent measured with the weights of the supernet it comes from; None where unknown."""

    @property
    def arch(self) -> ArchConfig:
        return self.space.largest()


def wanted_of_run(run: Run, arch: str, *, device: DeviceProfile, tables: Path = TABLES) -> Wanted:
    """Return a subnet of a run's space by key, name or text, with the run's recipe."""
    rows = AccuracyTable.open(run.accuracy, run.load_supernet()[1]).rows if run.weights.exists() else {}
    known = {"largest": run.space.largest(), "smallest": run.space.smallest()}
    with suppress(TableError):
        known |= {key: found for key, (found, _) in LatencyTable.open(tables, device, run.space).subnets.items()}
    known |= {key: found for key, (found, _) in rows.items()}
    chosen = _chosen(run.space, known, arch)
    return Wanted(
        space=only(find_space(run.recipe.space), chosen),
        of_space=run.recipe.space,
        recipe=alone(asdict(run.recipe)),
        folder=run.folder / "alone" / chosen.key,
        shared_top1=rows[chosen.key][1] if chosen.key in rows else None,
    )


def wanted_of_space(space: str, arch: str, runs: Path) -> Wanted:
    """Return a network of a space by text or `largest` or `smallest`, to be trained in a folder in `runs`."""
    found = find_space(space)
    chosen = _chosen(found, {"largest": found.largest(), "smallest": found.smallest()}, arch)
    return Wanted(space=only(found, chosen), of_space=space, recipe={}, folder=runs / f"{found.name}-{chosen.key}")


def alone(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe says to one network alone, which always learns its batch norms' gamma and beta."""
    return {key: value for key, value in recipe.items() if key not in SHARED}


def train_arch(
    wanted: Wanted | None,
    folder: Path,
    *,
    recipe: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Train what is wanted in `folder`, or go on with what was begun there.

    A `recipe` stands instead of the wanted's own, whose data stay; `changes` are put over either.
    """
    reporter, changes = reporter or Silent(), changes or {}
    kept = {key: wanted.recipe[key] for key in ("data",) if wanted and key in wanted.recipe}
    given = {} if recipe is None else {**alone(recipe), **kept}
    try:
        if resume or wanted is None:
            return train_supernet({**given, **changes}, folder, source=SOURCE, resume=True, reporter=reporter)
        return _begin(wanted, {**(wanted.recipe if recipe is None else given), **changes}, folder, reporter)
    except KeyboardInterrupt:
        reporter.say(f"or with `ofa-kit train-arch --name {folder} --resume`, which also measures and exports")
        raise


def export_trained(
    run: Run,
    target: Path,
    *,
    device: DeviceProfile,
    dynamic_batch: bool = False,
    conversion: Conversion | None = None,
) -> Deployment:
    """Measure the trained network's top-1 and its time on `device`, and export it verified."""
    supernet, weights_hash = run.load_supernet()
    arch, evaluator = _only_arch(run), open_evaluator(run)
    subnet = evaluator.recalibrated(supernet, arch)
    table = AccuracyTable.open(run.accuracy, weights_hash)
    if arch.key not in table.rows:
        add_row(table, arch, evaluator.validation_top1(subnet), evaluator)
    return deploy_timed(
        run,
        subnet,
        target,
        device=device,
        evaluator=evaluator,
        weights_hash=weights_hash,
        validation_top1=table.rows[arch.key][1],
        dynamic_batch=dynamic_batch,
        conversion=conversion,
    )


def _chosen(space: SearchSpace, known: Mapping[str, ArchConfig], arch: str) -> ArchConfig:
    if arch in known:
        return known[arch]
    if arch.isalnum():
        raise UnknownNameError("arch", arch, [name for name in known if len(name) < KEY_DIGITS] + ["KEY", "FILE.json"])
    return arch_from_text(space, arch)


def _begin(wanted: Wanted, values: Mapping[str, Any], folder: Path, reporter: Reporter) -> Run:
    values = {"method": "single-path", **values}
    Recipe.parse({**values, "space": wanted.of_space}, SOURCE)
    try:
        Run.refuse_begun(folder)
    except RunError as error:
        raise RunError(f"run '{folder}' exists; go on with --resume, or choose another --name NAME") from error
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / SPACE_FILE  # the run keeps its own copy once its data are known to be there
        write_space(path, wanted.space)
        return train_supernet({**values, "space": str(path)}, folder, source=SOURCE, reporter=reporter)


def _only_arch(run: Run) -> ArchConfig:
    if run.space.size() != 1:
        raise RunError(
            f"run '{run.folder}' holds {run.space.size():.3g} subnets, not one trained alone; `ofa-kit export --run "
            f"{run.name} --arch KEY` exports one of them"
        )
    return run.space.largest()
