"""Children on all machines of a Ray cluster, one core each (one GPU where they train on such)."""

from collections.abc import Iterator, Sequence
from typing import Any

from ofa_kit.nas.nas_rl.engine import Failed, Trainer
from ofa_kit.nas.nas_rl.engine_processes import attempt_within, require_limits
from ofa_kit.training.measure_ray import load_ray


class RayEngine:
    """Puts the trainer into the cluster's object store: its machines need ofa-kit, but neither the run nor its data.

    RAY_ADDRESS names the cluster; without it, one is found or started on this machine. Ray does not try a child again
    whose process was killed.
    """

    def __init__(self, trainer: Trainer, *, memory_mb: int = 0, gpu: bool = False) -> None:
        require_limits(memory_mb)
        self.ray, self.memory_mb = load_ray(), memory_mb
        self.joined_here = not self.ray.is_initialized()
        if self.joined_here:
            self.ray.init(log_to_driver=False, logging_level="warning")
        self.trainer = self.ray.put(trainer)
        own_process = {"max_calls": 1} if memory_mb else {}
        options = {"num_cpus": 1, "num_gpus": int(gpu), "max_retries": 0, **own_process}
        self.attempt = self.ray.remote(**options)(attempt_within)

    def train(self, children: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        child_of = {self.attempt.remote(self.trainer, child, self.memory_mb): child for child in children}
        waiting = list(child_of)
        while waiting:
            ready, waiting = self.ray.wait(waiting)
            for reference in ready:
                yield child_of[reference], self._result(reference)

    def close(self) -> None:
        if self.joined_here:
            self.ray.shutdown()

    def _result(self, reference: Any) -> Any:
        lost = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except (lost.WorkerCrashedError, lost.OutOfMemoryError, lost.NodeDiedError, lost.ObjectLostError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return Failed(f"lost by Ray: {reason}")
