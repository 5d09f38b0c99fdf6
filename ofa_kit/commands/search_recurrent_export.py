"""A trained language model as ONNX: checked against PyTorch in ONNX Runtime, and timed on a device."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ofa_kit.errors import DataError, ExportError
from ofa_kit.export.compare import TOLERANCE
from ofa_kit.export.onnx_export import save, with_metadata
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.board.runner.sessions import open_session
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.recurrent.language_model import LanguageModel
from ofa_kit.nas.recurrent.latency import serialized
from ofa_kit.nas.recurrent.onnx import LOGITS, TOKENS, language_model, state_names
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter

JUDGE = DeviceProfile(name="judge", backend="onnxruntime")
CHECKED_TOKENS = 2000


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """An ONNX file and how it does beside PyTorch on the same tokens, one after the other."""

    path: Path
    tokens: int
    """Predictions compared, from the start of the test text."""
    max_relative_difference: float
    """Largest difference of a logit, relative to the largest logit of PyTorch."""
    perplexity_onnx: float
    perplexity_pytorch: float


def export_language_model(
    model: LanguageModel, path: Path, tokens: Tensor, facts: Mapping[str, Any], *, length: int = 1
) -> ExportedModel:
    """Write a model of `length` tokens a run and compare it on tokens (N,); an ExportError when they differ."""
    made = with_metadata(language_model(model, length=length), facts)
    found = compare_language_model(model, made, tokens[: CHECKED_TOKENS + 1], path, length=length)
    save(made, path)
    return found


@torch.no_grad()
def compare_language_model(
    model: LanguageModel, made: onnx.ModelProto, tokens: Tensor, path: Path, *, length: int
) -> ExportedModel:
    """Run both over tokens (N,), each with its own state; an ExportError when logits differ by more than TOLERANCE."""
    count = (len(tokens) - 1) // length * length
    if not count:
        raise DataError(f"{len(tokens)} tokens are too few to compare a model of {length} tokens; give a longer text")
    inputs, targets = tokens[:count, None], tokens[1 : count + 1].numpy()
    expected = model(inputs, model.cell.start(1)).logits[:, 0].numpy()
    session = open_session(made.SerializeToString(), asdict(JUDGE))
    names = state_names(model.cell)
    states = {name: np.zeros((1, model.cell.hidden), np.float32) for name in names}
    rows = []
    for start in range(0, count, length):
        part = inputs[start : start + length].numpy()
        logits, *after = session.run([LOGITS, *(f"next_{name}" for name in names)], {TOKENS: part, **states})
        states = dict(zip(names, after, strict=True))
        rows.append(logits[:, 0])
    found = np.concatenate(rows)
    relative = float(np.abs(found - expected).max()) / max(float(np.abs(expected).max()), 1e-12)
    if not relative <= TOLERANCE:
        raise ExportError(
            f"the exported language model differs from PyTorch by {relative:.2e} on {count} tokens, allowed "
            f"{TOLERANCE}; this is a fault of the export: please report it with the genotype"
        )
    return ExportedModel(
        path=path,
        tokens=count,
        max_relative_difference=relative,
        perplexity_onnx=_perplexity(found, targets),
        perplexity_pytorch=_perplexity(expected, targets),
    )


def token_latencies(
    models: Mapping[str, LanguageModel], device: DeviceProfile, path: Path, reporter: Reporter | None = None
) -> dict[str, Measurement]:
    """Time one token of each model on a device, all in turn; the look-up of the embedding is left out.

    Sessions are kept in the CSV file `path`. A BackendError says what the device lacks.
    """
    times = Times.open(path, backend_for(device))
    times.measure({name: partial(serialized, model, device.batch) for name, model in models.items()}, reporter)
    return {name: times.of(name) for name in models}


def _perplexity(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    wide = torch.from_numpy(logits).double()
    return float(torch.nn.functional.cross_entropy(wide, torch.from_numpy(targets)).exp())
