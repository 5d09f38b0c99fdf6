"""Where children are trained: in this process, in others of this machine, or on a Ray cluster; with the same results.

A child that fails is a value, not the end: one that diverges, runs out of memory or whose process is killed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ofa_kit.supernet.one_thread import one_thread

MEMORY_WORDS = ("can't allocate memory", "out of memory", "bad_alloc", "cannot allocate memory")
"""What PyTorch's allocators and libraries say in a RuntimeError; Python itself raises MemoryError."""


class ChildFailedError(Exception):
    """A child that cannot be judged."""


@dataclass(frozen=True)
class Failed:
    """Stands for the result of a child that has none."""

    error: str


class Trainer(Protocol):
    """Trains children of a kind; it can be sent to other processes."""

    def train(self, child: Any) -> Any:
        """Return a child's result; a ChildFailedError when it has none."""
        ...


class Engine(Protocol):
    """Trains the children of a round."""

    def train(self, children: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield each child with its result, or Failed, as soon as it is there."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class InThisProcess:
    """Trains one child after the other, here: one whose process would be killed takes the search with it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def train(self, children: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        return ((child, attempt(self.trainer, child)) for child in children)

    def close(self) -> None:
        pass


def attempt(trainer: Trainer, child: Any) -> Any:
    """Return the child's result or why it has none; on one thread, whose sums do not depend on the machine."""
    try:
        with one_thread():
            return trainer.train(child)
    except ChildFailedError as error:
        return Failed(str(error))
    except MemoryError:
        return Failed("out of memory")
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in MEMORY_WORDS):
            return Failed("out of memory")
        raise
