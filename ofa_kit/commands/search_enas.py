"""search enas: what a recipe's `kind` names is searched by a controller over shared weights, in a run folder."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ofa_kit.commands.cells_found import CellsFound
from ofa_kit.commands.search_enas_images import COMMAND, search_images
from ofa_kit.commands.search_enas_macro import MacroFound, MacroImages
from ofa_kit.commands.search_enas_micro import MicroImages
from ofa_kit.commands.search_enas_recurrent import search_enas_recurrent
from ofa_kit.commands.search_recurrent import RecurrentFound
from ofa_kit.config import read_yaml
from ofa_kit.errors import RecipeError, UnknownNameError
from ofa_kit.nas.run import CONFIG
from ofa_kit.progress import Reporter

Found = CellsFound | MacroFound | RecurrentFound
KINDS: Mapping[str, Callable[..., Found]] = {
    "micro": partial(search_images, MicroImages()),
    "macro": partial(search_images, MacroImages()),
    "recurrent": search_enas_recurrent,
}
"""What searches each kind: (values, folder, source=, resume=, reporter=)."""


def search_enas(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Found:
    """Search as the recipe `values` say, in `folder`, or go on with the search begun there."""
    kind = values.get("kind") or (_begun_kind(folder) if resume else None)
    if kind is None:
        raise RecipeError(
            f"{source}: no kind; give --kind {'|'.join(KINDS)}, or a recipe (profiles/recipes/enas-*.yaml)"
        )
    if kind not in KINDS:
        raise UnknownNameError("kind", str(kind), list(KINDS))
    return KINDS[kind](values, folder, source=source, resume=resume, reporter=reporter)


def _begun_kind(folder: Path) -> str | None:
    """Return the kind of the search begun in a folder; the first one where there is none, which says so."""
    path = folder / CONFIG
    found = read_yaml(path) if path.exists() else {}
    if found.get("command") != COMMAND:
        return next(iter(KINDS))
    return (found.get("recipe") or {}).get("kind")
