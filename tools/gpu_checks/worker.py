"""Train a run that exists in one of several processes that share one device; started by torchrun.

worker.py RUN_FOLDER cuda|cpu
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed

from ofa_kit.data.sources import open_dataset
from ofa_kit.training.distributed import PATIENCE, Team, leave
from ofa_kit.training.loop import train
from ofa_kit.training.run import Run


def main(folder: str, kind: str) -> None:
    """Join the team on the only device there is."""
    device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("gloo", timeout=PATIENCE)
    run = Run.open(Path(folder))
    team = Team(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device)
    try:
        train(run, open_dataset(run.recipe.data, photo_size=32), team=team)
    finally:
        leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
