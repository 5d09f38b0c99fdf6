import numpy as np
import pytest
import torch

from ofa_kit.arch.presets import preset
from ofa_kit.errors import ExportError
from ofa_kit.export.compare import compare
from ofa_kit.supernet.subnet import extract
from ofa_kit.supernet.supernet import Supernet

SUBNET = extract(Supernet(preset("mbv3-tiny")).eval(), preset("mbv3-tiny").smallest())
BATCHES = [(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)) for _ in range(3)]


def pytorch(images):
    with torch.no_grad():
        return SUBNET(torch.from_numpy(images)).numpy()


def test_the_same_outputs_are_proven_equal():
    proof = compare(SUBNET, pytorch, BATCHES)
    assert (proof.images, proof.max_relative_difference) == (12, 0.0)
    assert proof.correct_onnx == proof.correct_pytorch


@pytest.mark.parametrize("wrong", [0.01, np.nan])
def test_one_wrong_batch_among_right_ones_is_refused(wrong):
    calls = [0]

    def run(images):
        calls[0] += 1
        return pytorch(images) + (wrong if calls[0] == 2 else 0)

    with pytest.raises(ExportError, match="differs from PyTorch"):
        compare(SUBNET, run, BATCHES)


def test_weights_that_are_not_finite_are_named():
    broken = extract(Supernet(preset("mbv3-tiny")).eval(), preset("mbv3-tiny").smallest())
    with torch.no_grad():
        broken.layers["classifier"].bias[0] = float("nan")
    with pytest.raises(ExportError, match="training diverged"):
        compare(broken, pytorch, BATCHES)
