"""Deploy: a trained subnet as ONNX, safetensors and deployment.json, verified and measured."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ofa_kit import __version__, storage
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import macs, params
from ofa_kit.commands.measure_accuracy import now
from ofa_kit.data.batches import evaluation_batches
from ofa_kit.errors import OfaKitError
from ofa_kit.export.compare import Comparison, compare
from ofa_kit.export.onnx_export import export, save, with_metadata
from ofa_kit.latency.backends.onnxruntime import OrtBackend
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.run import Run
from ofa_kit.training.subnet_file import save_subnet

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An exported subnet and all that is known of it; predicted and measured values side by side."""

    model_path: Path
    arch: ArchConfig
    facts: dict[str, object]
    predicted: dict[str, float]
    measured: dict[str, float]


def deployment_paths(target: Path) -> tuple[Path, Path]:
    """Return the paths of model and JSON for NAME.onnx or for a folder."""
    if target.suffix == ".onnx":
        return target, target.with_suffix(".deployment.json")
    if target.suffix:
        raise OfaKitError(f"--export takes NAME.onnx or a folder, found '{target}'")
    return target / "model.onnx", target / "deployment.json"


def deploy(
    run: Run,
    subnet: Subnet,
    target: Path,
    *,
    device: DeviceProfile,
    evaluator: Evaluator,
    weights_hash: str,
    validation_top1: float,
    latency: Measurement,
    predicted: Mapping[str, float],
    budget: str = "",
    dynamic_batch: bool = False,
) -> Deployment:
    """Verify the ONNX model on the whole test set, then write it with its provenance in one step each."""
    model_path, json_path = deployment_paths(target)
    storage.writable_folder(model_path.parent)
    model = export(subnet, batch=None if dynamic_batch else device.batch)
    test = evaluator.dataset.test
    proof = compare(subnet, _runner(model), evaluation_batches(test, run.info))
    measured = measured_values(proof, validation_top1, latency)
    facts = _facts(run, subnet, device, weights_hash) | {"budget": budget}
    metadata = {**facts, "predicted": predicted, "measured": measured}
    save(with_metadata(model, {f"ofa_kit.{key}": value for key, value in metadata.items()}), model_path)
    weights_path = model_path.with_suffix(".safetensors")
    save_subnet(weights_path, subnet)
    names = {"model": model_path.name, "weights": weights_path.name}
    storage.write_text(json_path, json.dumps({**names, **metadata}, indent=2) + "\n")
    return Deployment(
        model_path=model_path, arch=subnet.arch, facts=facts, predicted=dict(predicted), measured=measured
    )


def measured_values(proof: Comparison, validation_top1: float, latency: Measurement) -> dict[str, float]:
    """Return the measured half of a deployment, by the names it has everywhere."""
    return {
        "latency_ms": round(latency.latency_ms, 4),
        "latency_p50_ms": round(latency.p50_ms, 4),
        "latency_p90_ms": round(latency.p90_ms, 4),
        "latency_converged": float(latency.converged),
        "validation_top1": round(validation_top1, 3),
        "test_images": proof.images,
        "test_top1_pytorch": round(proof.top1_pytorch, 3),
        "test_top1_onnx": round(proof.top1_onnx, 3),
        "test_correct_pytorch": proof.correct_pytorch,
        "test_correct_onnx": proof.correct_onnx,
        "max_relative_difference": proof.max_relative_difference,
    }


def network_facts(subnet: Subnet, weights_hash: str) -> dict[str, object]:
    """Return what every exported network says of itself."""
    space, arch = subnet.space, subnet.arch
    return {
        "arch_key": arch.key,
        "arch": arch.to_row(),
        "space": space.name,
        "space_fingerprint": space.fingerprint,
        "macs": macs(space, arch),
        "params": params(space, arch),
        "weights_hash": weights_hash,
        "ofa_kit_version": __version__,
        "exported_at": now(),
    }


def _facts(run: Run, subnet: Subnet, device: DeviceProfile, weights_hash: str) -> dict[str, object]:
    return {
        **network_facts(subnet, weights_hash),
        "device": asdict(device),
        "preprocessing": _preprocessing(run, subnet.arch),
        "class_names": list(run.info.class_names),
    }


def _preprocessing(run: Run, arch: ArchConfig) -> dict[str, object]:
    """Return the steps from an image file to the input tensor, in order."""
    info = run.info
    first: dict[str, object] = (
        {"resize": [info.image_size, info.image_size]}
        if info.crop_fraction == 1
        else {"resize_shorter_side": round(info.image_size / info.crop_fraction), "center_crop": info.image_size}
    )
    return {
        "channels": "RGB" if info.in_channels == 3 else "grey",
        **first,
        "scale": 1 / 255,
        "mean": list(info.mean),
        "std": list(info.std),
        "resize_to": arch.resolution,
        "interpolation": "bilinear, antialiased",
        "layout": "NCHW float32",
    }


def _runner(model: onnx.ModelProto) -> Callable[[Array], Array]:
    """Return a function from images (N, C, R, R) to logits that feeds the model batches of its own size.

    ONNX Runtime's CPU in fp32 is the judge, whatever the device: it computes what the file says.
    """
    session = OrtBackend(DeviceProfile(name="judge", backend="onnxruntime")).load(model.SerializeToString())
    size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value

    def run(images: Array) -> Array:
        if not size:
            return session.predict([images])
        padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % size, axis=0)])
        return session.predict(padded[i : i + size] for i in range(0, len(padded), size))[: len(images)]

    return run
