"""Processes forked from a clean server that has imported what takes seconds: each starts within milliseconds."""

from collections.abc import Sequence
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext


def process_context(preloaded: Sequence[str]) -> BaseContext:
    """Return what starts processes: from a server with these modules where the system can fork, else afresh.

    A process has one server; the first to start something decides what it has imported.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    return context
