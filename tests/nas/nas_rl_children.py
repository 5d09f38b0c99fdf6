"""What tests of NAS-RL send to other processes, which import this module and little else."""

import dataclasses
import os
import signal
from multiprocessing import get_context

from ofa_kit.nas.nas_rl.engine_processes import _serve
from ofa_kit.nas.nas_rl.training import ChildTrainer

TINY = {"data": "digits", "images": 80, "filters": [2, 3], "layers": 2, "deepen_every": 4, "deepen_by": 1}
TINY |= {"children": 8, "round_size": 4, "epochs": 1, "batch_size": 16, "final_epochs": 1, "accelerator": "cpu"}
TINY |= {"controller_lr": 0.05}


@dataclasses.dataclass(frozen=True)
class Deadly(ChildTrainer):
    """A trainer whose process is killed while it trains one of the networks."""

    key: str = ""

    def train(self, net):
        if net.key == self.key:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(net)


def parent_of_a_worker(pipe):
    """Start what trains children, tell its number, and wait to be killed."""
    context = get_context("fork")
    _, theirs = context.Pipe()
    worker = context.Process(target=_serve, args=(theirs, 0))
    worker.start()
    pipe.send(worker.pid)
    worker.join()


def search_here(folder):
    """Search in this process; the command's imports are only worth it here."""
    from ofa_kit.commands.search_nas_rl import Training, search_nas_rl

    search_nas_rl(TINY, folder, how=Training(processes=0))
