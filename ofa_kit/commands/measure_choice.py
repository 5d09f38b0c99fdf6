"""The active choice of measure-accuracy for a run: by MACs, or by the latency on a device that was profiled."""

from functools import partial
from pathlib import Path

import numpy as np

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.commands.profile import TABLES, open_profiled
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.predictors.latency import LatencyPredictor, Values
from ofa_kit.search.active import ActiveChoice
from ofa_kit.training.run import Run


def active_choice(run: Run, device: str | None = None, *, tables: Path = TABLES, seed: int = 0) -> ActiveChoice:
    """Return the choice that looks for accurate subnets of few MACs, or fast ones on a device with a table."""
    if device is None:
        return ActiveChoice(space=run.space, cost=partial(macs_of, run.space), seed=seed)
    predictor = open_profiled(DeviceProfile.load(device), run.space, tables).predictor
    return ActiveChoice(space=run.space, cost=partial(_latency_ms, predictor), seed=seed)


def _latency_ms(predictor: LatencyPredictor, genomes: Genomes) -> Values:
    """Return predicted latency, infinite where the table does not tell."""
    return np.nan_to_num(predictor.predict_ms(genomes), nan=np.inf)
