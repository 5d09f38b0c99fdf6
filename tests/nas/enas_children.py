"""What a test of ENAS starts in another process."""

import os
import signal

from ofa_kit.commands.search_enas import search_enas
from ofa_kit.nas.enas.micro_search import MicroSearch


def go_on_and_be_killed(folder):
    """Resume a search and be killed while the controller learns in its second epoch."""
    move = MicroSearch.step

    def killed_in_the_second_epoch(self, batch, epoch, step):
        if (epoch, step) == (1, self.child_steps + 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return move(self, batch, epoch, step)

    MicroSearch.step = killed_in_the_second_epoch
    search_enas({}, folder, resume=True)
