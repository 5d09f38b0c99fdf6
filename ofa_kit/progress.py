"""Progress of long work: a bar with ETA on stderr for a person, nothing for a program."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, str], None]
"""advance(done, note): `done` of the announced total are finished."""


class Reporter(Protocol):
    """Where commands say how far they are."""

    def task(self, title: str, total: int) -> AbstractContextManager[Advance]: ...

    def say(self, text: str) -> None: ...


class Silent:
    """Says nothing."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        yield lambda done, note: None

    def say(self, text: str) -> None:
        pass


class Terminal:
    """Bars on stderr; where stderr is no terminal, a line every few seconds."""

    def __init__(self, every_s: float = 15.0) -> None:
        self.every_s = every_s

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        if not sys.stderr.isatty():
            yield self._lines(title, total)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)

    def say(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _lines(self, title: str, total: int) -> Advance:
        start_s = time.monotonic()
        last = [start_s, 0.0]

        def advance(done: int, note: str) -> None:
            now_s = time.monotonic()
            if now_s - last[0] < self.every_s and done < total:
                return
            if done == last[1]:
                return
            last[:] = [now_s, done]
            left_s = (now_s - start_s) / max(done, 1) * (total - done)
            self.say(f"{title}: {done}/{total}, {left_s:.0f} s left  {note}".rstrip())

        return advance
