"""SubnetMeter: weights, images and runtime, all that measuring the top-1 of subnets takes in any process."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Literal

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import layers
from ofa_kit.arch.space import SearchSpace
from ofa_kit.data.dataset import DatasetInfo, MemoryImages
from ofa_kit.supernet.one_thread import one_thread
from ofa_kit.supernet.recalibrate import recalibrate_together
from ofa_kit.supernet.subnet import extract
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.evaluate import Evaluator, image_batches, labelled_batches
from ofa_kit.training.measure_together import Runtime, count_correct, in_onnxruntime, in_pytorch

RuntimeName = Literal["pytorch", "onnxruntime"]
RUNTIMES: dict[RuntimeName, Runtime] = {"pytorch": in_pytorch, "onnxruntime": in_onnxruntime}


@dataclass(frozen=True, kw_only=True)
class SubnetMeter:
    """Measures subnets of one supernet on the same images, wherever it is sent."""

    supernet: Supernet
    info: DatasetInfo
    calibration: MemoryImages
    validation: MemoryImages
    runtime: RuntimeName = "pytorch"

    @classmethod
    def of(cls, supernet: Supernet, evaluator: Evaluator, runtime: RuntimeName = "pytorch") -> "SubnetMeter":
        """Return a meter with the images of an evaluator."""
        return cls(
            supernet=supernet,
            info=evaluator.dataset.info,
            calibration=evaluator.calibration_images,
            validation=evaluator.validation_images,
            runtime=runtime,
        )

    def count_correct(self, archs: Sequence[ArchConfig]) -> list[int]:
        """Return how many validation images each subnet classifies correctly, with batch norm recalibrated.

        It runs on one thread: sums that several threads add up depend on how many there are.
        """
        with one_thread():
            subnets = [extract(self.supernet, arch) for arch in archs]
            recalibrate_together(subnets, image_batches(self.calibration, self.info))
            batches = partial(labelled_batches, self.validation, self.info)
            return count_correct(subnets, batches, RUNTIMES[self.runtime])


def chunks_of(space: SearchSpace, archs: Sequence[ArchConfig], most: int) -> list[list[ArchConfig]]:
    """Return the subnets in chunks for one pass each, those that begin alike together, high resolutions first."""
    ordered = sorted(archs, key=lambda arch: (-arch.resolution, [layer.key for layer in layers(space, arch)]))
    chunks: list[list[ArchConfig]] = []
    for _, group in groupby(ordered, key=lambda arch: arch.resolution):
        alike = list(group)
        parts = math.ceil(len(alike) / most)
        cuts = [len(alike) * part // parts for part in range(parts + 1)]
        chunks += [alike[start:end] for start, end in pairwise(cuts)]
    return chunks
