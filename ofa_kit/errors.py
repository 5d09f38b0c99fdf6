"""What can go wrong for a user: each error says what was asked, what was found and what to do now."""

import difflib
from collections.abc import Iterable, Sequence


class OfaKitError(Exception):
    """A user error: the command line prints its message on one line and exits with 2."""


class UnknownNameError(OfaKitError):
    """A name (space, device, recipe key, data set) that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'? " if close else ""
        super().__init__(f"unknown {kind} '{name}'; {hint}known: {some_of(known, most=40)}")


class RecipeError(OfaKitError):
    """A recipe or device file whose content is not valid."""


class DataError(OfaKitError):
    """A data set that is missing, empty or damaged."""


class RunError(OfaKitError):
    """A run folder that is missing, incomplete or belongs to something else."""


class DivergedError(RunError):
    """Training whose loss is no finite number any more."""


class TableError(OfaKitError):
    """A table file that is missing or damaged."""


class StaleTableError(TableError):
    """A table that was measured for another space or device profile."""


class WeightsError(OfaKitError):
    """Weights, or the description of a network, that no network here fits or that are not safe to open."""


class ConvertError(OfaKitError):
    """A model that cannot become a supernet: the message names the first place that does not fit."""


class InfeasibleBudgetError(OfaKitError):
    """No architecture of the space meets the budget."""


class BackendError(OfaKitError):
    """A runtime that is missing, lacks a provider or cannot run the model."""


class ExportError(OfaKitError):
    """An exported model that does not compute what PyTorch computes, or cannot be written."""


def some_of(items: Sequence[str], most: int = 12) -> str:
    """Return the first items of a list for a message, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
