"""What a searcher's trained network leaves: weights, and model.onnx that has been compared with PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor, nn

from ofa_kit import storage
from ofa_kit.commands.deploy_conversion import runner
from ofa_kit.data.batches import evaluation_batches
from ofa_kit.data.dataset import Dataset
from ofa_kit.export import predict
from ofa_kit.export.compare import Comparison, compare_at_size
from ofa_kit.export.onnx_export import save, with_metadata
from ofa_kit.export.preprocessing import preprocessing_steps
from ofa_kit.latency.protocol import Measurement
from ofa_kit.training import checkpoint

MODEL, WEIGHTS = "model.onnx", "network.safetensors"


@dataclass(frozen=True, kw_only=True)
class ProvenNetwork:
    """A trained network in a folder and what was measured of it."""

    folder: Path
    params: int
    """Without an auxiliary head."""
    macs: int
    validation_top1: float
    """Percent of the held-out part of the training images."""
    test_top1: float
    """Percent of the test images, in PyTorch."""
    test_top1_onnx: float
    test_images: int
    max_relative_difference: float
    """Of ONNX Runtime's logits from PyTorch's, relative to the largest."""
    latency: Measurement | None = None

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    def measured_lines(self) -> list[str]:
        """Return what was measured, for a person to read."""
        lines = [
            f"model     {self.model}   {self.params:,} parameters, {self.macs:,} MACs",
            f"top-1     {self.validation_top1:.2f} % validation (measured)",
            f"test      {self.test_top1_onnx:.2f} % of {self.test_images} images in ONNX Runtime, "
            f"{self.test_top1:.2f} % in PyTorch (measured); logits differ by {self.max_relative_difference:.1e}",
        ]
        if self.latency is not None:
            lines.append(f"latency   {self.latency.latency_ms:.4f} ms (measured)")
        return lines


def save_proven(
    network: nn.Module,
    model: onnx.ModelProto,
    state: Mapping[str, Tensor],
    dataset: Dataset,
    folder: Path,
    facts: Mapping[str, Any],
) -> Comparison:
    """Compare a model of open batch size on all test images; write it, `state` as weights, and predict.py.

    `facts` say what the network is. An ExportError when the model does not compute what the network does.
    """
    info = dataset.info
    proof = compare_at_size(network, runner(model), evaluation_batches(dataset.test, info))
    facts = {**facts, "weights_hash": checkpoint.weights_hash(state)}
    checkpoint.save(folder / WEIGHTS, state, facts)
    measured = {"test_top1_onnx": proof.top1_onnx, "test_images": proof.images}
    steps = preprocessing_steps(info, info.image_size)
    about = {"class_names": list(info.class_names), "preprocessing": steps, "measured": measured}
    known = {f"ofa_kit.{key}": value for key, value in {**facts, **about}.items()}
    save(with_metadata(model, known), folder / MODEL)
    storage.write_text(folder / "predict.py", Path(predict.__file__).read_text(encoding="utf-8"))
    return proof
