"""Team: the processes that train one supernet together, started by torchrun; alone, a team of one.

The batch of a step is cut into equal parts, one a process. Gradients are averaged once a step, after all subnets of
the step have added theirs, so the result is the gradient of the joined batch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
from torch import Tensor, distributed

from ofa_kit.errors import OfaKitError

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the first one validates while they wait."""


@dataclass(frozen=True)
class Team:
    """A process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, accelerator: Literal["auto", "cpu", "cuda"]) -> "Team":
        """Join the processes that torchrun started, on this process's own device."""
        if accelerator == "cuda" and not torch.cuda.is_available():
            raise OfaKitError("accelerator cuda was asked for and PyTorch finds no GPU; see `ofa-kit doctor`")
        cuda = accelerator != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
        if cuda and (device.index or 0) >= torch.cuda.device_count():
            raise OfaKitError(
                f"process {device.index} of this machine has no GPU of its own, PyTorch finds "
                f"{torch.cuda.device_count()}; start one process a GPU, or --set accelerator=cpu"
            )
        if cuda:
            torch.cuda.set_device(device)
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
        return cls(int(os.environ.get("RANK", "0")) if size > 1 else 0, size, device)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def mean(self, value: float) -> float:
        """Return the mean of a number over processes, the same in each."""
        if self.size == 1:
            return value
        total = torch.tensor(value, device=self.device, dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total) / self.size

    def average_gradients(self, parameters: Sequence[Tensor], flag: bool) -> bool:
        """Replace gradients by their mean over processes; return whether any process raised the flag."""
        if self.size == 1:
            return flag
        gradients = [p.grad for p in parameters if p.grad is not None]
        raised = torch.tensor([float(flag)], device=self.device)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), raised.to(gradients[0].dtype)])
        distributed.all_reduce(flat)
        start = 0
        for gradient in gradients:
            part = flat[start : start + gradient.numel()] / self.size
            gradient.copy_(part.view_as(gradient))
            start += gradient.numel()
        return bool(flat[-1] > 0)


def launched_rank() -> int:
    """Return this process's rank among those of torchrun before a team is joined."""
    return int(os.environ.get("RANK", "0"))


def leave() -> None:
    """End what `Team.join` began."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
