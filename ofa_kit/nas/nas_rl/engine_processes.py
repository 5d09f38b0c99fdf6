"""Children in processes of this machine, each on one thread: one that is killed takes only its child with it.

With a memory limit each child has a process of its own: what an earlier one left in the allocator would count.
"""

import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ofa_kit.errors import OfaKitError
from ofa_kit.nas.nas_rl.engine import Failed, Trainer, attempt
from ofa_kit.training.allocator import keep_freed_memory
from ofa_kit.training.clean_processes import process_context

STATM = Path("/proc/self/statm")
PRELOADED = ["ofa_kit.nas.nas_rl.training", "torchvision.transforms.v2", "torch._dynamo"]
"""What takes seconds to import; PyTorch's optimizers import the last at their first step."""


@dataclass(frozen=True)
class Worker:
    """A process and this end of its pipe."""

    process: BaseProcess
    pipe: Connection

    def end(self) -> None:
        """Stop it at once."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


class SeveralProcesses:
    """Trains `count` children at once; a process that ends is replaced."""

    def __init__(self, trainer: Trainer, count: int, *, memory_mb: int = 0) -> None:
        require_limits(memory_mb)
        # Plain pickling: multiprocessing's own would move tensors to shared memory, of which containers have little.
        self.packed, self.count, self.memory_mb = pickle.dumps(trainer), count, memory_mb
        self.context = process_context(PRELOADED)
        self.idle: list[Worker] = []
        self.busy: dict[Connection, tuple[Worker, Any]] = {}

    def train(self, children: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        waiting = deque(children)
        while waiting or self.busy:
            while waiting and len(self.busy) < self.count:
                child = waiting.popleft()
                worker = self._given(child)
                self.busy[worker.pipe] = worker, child
            for ready in connection.wait(list(self.busy)):
                assert isinstance(ready, Connection)
                worker, child = self.busy.pop(ready)
                yield child, self._result(worker)

    def close(self) -> None:
        for worker in (*self.idle, *(worker for worker, _ in self.busy.values())):
            worker.end()
        self.idle, self.busy = [], {}

    def _given(self, child: Any) -> Worker:
        """Return a process that has the child; one that was killed while it was idle is no fault of the child."""
        while self.idle:
            worker = self.idle.pop()
            try:
                worker.pipe.send(child)
            except ConnectionError:
                worker.end()
            else:
                return worker
        worker = self._started()
        with suppress(ConnectionError):  # a process that ended already is reported where its result is asked for
            worker.pipe.send_bytes(self.packed)
            worker.pipe.send(child)
        return worker

    def _started(self) -> Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.memory_mb), daemon=True)  # type: ignore[attr-defined]
        process.start()
        theirs.close()  # so that this end reports when the process is gone
        return Worker(process, ours)

    def _result(self, worker: Worker) -> Any:
        try:
            found = worker.pipe.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            worker.pipe.close()
            return Failed(end_of(worker.process.exitcode))
        if self.memory_mb:
            worker.end()
        else:
            self.idle.append(worker)
        return found


def end_of(exitcode: int | None) -> str:
    """Return why a process is gone, by its exit code."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name if -exitcode in set(signal.Signals) else str(-exitcode)
        return f"process killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"process ended with exit code {exitcode}; it says above why"


def require_limits(memory_mb: int) -> None:
    """Raise an OfaKitError where this system cannot limit the memory of a process."""
    if memory_mb and not (STATM.exists() and sys.platform == "linux"):
        raise OfaKitError(f"memory_mb {memory_mb}: only Linux limits what a process takes; leave it out here")


@contextmanager
def limited_memory(memory_mb: int) -> Iterator[None]:
    """Let the process take so many MiB of addresses beyond what it has now; 0 = as many as it wants."""
    if not memory_mb:
        yield
        return
    import resource

    pages = int(STATM.read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt_within(trainer: Trainer, child: Any, memory_mb: int) -> Any:
    """Return the child's result or why it has none, within a limit of memory."""
    with limited_memory(memory_mb):
        return attempt(trainer, child)


def _serve(pipe: Connection, memory_mb: int) -> None:
    """Train what comes through the pipe until its other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not memory_mb:  # its thresholds take 256 MiB at a time
        keep_freed_memory()
    with suppress(EOFError, ConnectionError):
        trainer: Trainer = pickle.loads(pipe.recv_bytes())
        while True:
            pipe.send(attempt_within(trainer, pipe.recv(), memory_mb))


def _end_with_parent() -> None:
    """Leave as soon as the parent is gone, even if it was killed: a child under way is of no use to anyone."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
