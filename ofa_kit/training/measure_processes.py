"""Where chunks of subnets are measured: in this process, or in several of this machine.

A process gets the meter once, then chunk after chunk. Results come back as they are ready, and are the same from
anywhere: a chunk is measured on one thread.
"""

import pickle
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Protocol

from ofa_kit.arch.config import ArchConfig
from ofa_kit.errors import OfaKitError
from ofa_kit.training.allocator import keep_freed_memory
from ofa_kit.training.clean_processes import process_context
from ofa_kit.training.measure_subnets import SubnetMeter

PRELOADED = ["ofa_kit.training.measure_subnets"]
Counted = tuple[Sequence[ArchConfig], list[int]]
"""Subnets, and how many images each classifies correctly."""


class Engine(Protocol):
    """Measures chunks of subnets."""

    width: int
    """Chunks measured at once."""

    def measure(self, chunks: Sequence[Sequence[ArchConfig]]) -> Iterator[Counted]:
        """Yield each chunk with its counts as soon as it is measured."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class OneProcess:
    """Measures in this process."""

    def __init__(self, meter: SubnetMeter) -> None:
        self.meter, self.width = meter, 1

    def measure(self, chunks: Sequence[Sequence[ArchConfig]]) -> Iterator[Counted]:
        return ((chunk, self.meter.count_correct(chunk)) for chunk in chunks)

    def close(self) -> None:
        pass


class SeveralProcesses:
    """Measures in processes of this machine, each with its own copy of the images and one core."""

    def __init__(self, meter: SubnetMeter, count: int) -> None:
        # Plain pickling: multiprocessing's own would move tensors to shared memory, of which containers have little.
        packed = pickle.dumps(meter)
        self.width = count
        self.processes: dict[Connection, BaseProcess] = {}
        context = process_context(PRELOADED)
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()  # so that this end reports when the process is gone
            self.processes[ours] = process
        for ours in self.processes:
            with self._reporting_the_end_of(ours):
                ours.send_bytes(packed)

    def measure(self, chunks: Sequence[Sequence[ArchConfig]]) -> Iterator[Counted]:
        waiting, idle = deque(chunks), list(self.processes)
        busy: dict[Connection, Sequence[ArchConfig]] = {}
        while waiting or busy:
            while waiting and idle:
                free = idle.pop()
                busy[free] = waiting.popleft()
                with self._reporting_the_end_of(free):
                    free.send(busy[free])
            for ready in connection.wait(list(busy)):
                assert isinstance(ready, Connection)
                with self._reporting_the_end_of(ready):
                    found = ready.recv()
                if isinstance(found, str):
                    raise OfaKitError(found)
                idle.append(ready)
                yield busy.pop(ready), found

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
            process.join()

    @contextmanager
    def _reporting_the_end_of(self, pipe: Connection) -> Iterator[None]:
        """Raise an OfaKitError when the process behind a pipe is gone."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            process = self.processes[pipe]
            process.join()
            raise OfaKitError(
                f"a measuring process ended with exit code {process.exitcode} (-9: out of memory?); rows measured so "
                "far are kept, run again with fewer --processes"
            ) from error


def _serve(pipe: Connection) -> None:
    """Measure what comes through the pipe until its other end is gone, be it that the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its processes
    keep_freed_memory()
    with suppress(EOFError, ConnectionError):
        meter: SubnetMeter = pickle.loads(pipe.recv_bytes())
        while True:
            chunk = pipe.recv()
            try:
                pipe.send(meter.count_correct(chunk))
            except OfaKitError as error:
                pipe.send(str(error))
