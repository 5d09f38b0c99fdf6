"""TensorBoard: the metrics of a run as scalars; an extra, loaded only where a recipe asks for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_kit.errors import OfaKitError


class Board:
    """Writes rows of metrics; steps after `purge_step` are those of an earlier attempt and disappear."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise OfaKitError(
                "tensorboard: true needs the package tensorboard; install `ofa-kit[tensorboard]` or leave it out"
            ) from error
        self.writer = SummaryWriter(str(folder), purge_step=purge_step)

    def add(self, row: Mapping[str, Any], step: int) -> None:
        """Log the numbers of a metrics row."""
        for name in ("lr", "loss", "top1_smallest", "top1_largest", "images_per_s"):
            if row.get(name) not in (None, ""):
                self.writer.add_scalar(name, float(row[name]), step)
        self.writer.flush()
