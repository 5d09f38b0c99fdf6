"""Deploy: a trained subnet as ONNX, safetensors and deployment.json, verified and measured.

A folder also gets predict.py, which classifies images without this package, and report.html; where TensorRT is the
device's runtime, its engine lies beside the model.
"""

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx

from ofa_kit import __version__, storage
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import macs, params
from ofa_kit.commands.deploy_conversion import Conversion, ConvertedModel, convert, runner
from ofa_kit.commands.deploy_engine import BuiltEngine, build_engine, refuse_preprocessing_on_tensorrt
from ofa_kit.commands.deploy_report import deployment_page
from ofa_kit.commands.measure_accuracy import now
from ofa_kit.data.batches import evaluation_batches
from ofa_kit.data.dataset import Dataset
from ofa_kit.errors import OfaKitError
from ofa_kit.export import predict
from ofa_kit.export.compare import Comparison, compare, compare_prepared
from ofa_kit.export.onnx_export import export, save, with_metadata
from ofa_kit.export.preprocessing import preprocessing_steps, with_preprocessing
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.training.evaluate import Evaluator
from ofa_kit.training.run import Run
from ofa_kit.training.subnet_file import save_subnet

PACKAGES = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
FOLDER_MODEL = "model.onnx"


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
    return target / FOLDER_MODEL, target / "deployment.json"


def deploy(
    run: Run,
    subnet: Subnet,
    target: Path,
    *,
    device: DeviceProfile,
    evaluator: Evaluator,
    weights_hash: str,
    validation_top1: float,
    latency: Measurement | None,
    predicted: Mapping[str, float],
    budget: str = "",
    table_hash: str = "",
    dynamic_batch: bool = False,
    conversion: Conversion | None = None,
    other_devices: Mapping[str, Mapping[str, float]] | None = None,
) -> Deployment:
    """Verify the ONNX model on the whole test set, then write it with its provenance in one step each.

    `latency` is that of the subnet in the device's own precision, None where the device is not here; a file in another
    precision is timed here. `other_devices` says what the subnet takes on further devices, by name.
    """
    conversion = conversion or Conversion()
    if conversion.embed_preprocessing:
        refuse_preprocessing_on_tensorrt(device)
    model_path, _ = deployment_paths(target)
    storage.writable_folder(model_path.parent)
    source = export(subnet, batch=None if dynamic_batch else device.batch)
    proof = compare(subnet, runner(source), evaluation_batches(evaluator.dataset.test, run.info))
    found = convert(source, proof, device, evaluator, conversion)
    engine = build_engine(found.loadable, found.device)
    model, steps = found.model, preprocessing_steps(run.info, subnet.arch.resolution)
    facts = _facts(run, subnet, device, weights_hash)
    facts |= {"budget": budget, "table_hash": table_hash, **found.facts(), "preprocessing": steps}
    if other_devices:
        facts["other_devices"] = dict(other_devices)
    if conversion.embed_preprocessing:
        model = with_preprocessing(model, steps)
        facts |= _proof_of_preprocessing(source, subnet, evaluator.dataset)
    if engine:
        facts["engine"] = {"file": model_path.with_suffix(".engine").name, **engine.made_by}
    made = Deployment(
        model_path=model_path,
        arch=subnet.arch,
        facts=facts,
        predicted=dict(predicted),
        measured=_measured(proof, found, validation_top1, latency, device),
    )
    _write(made, model, subnet, engine, target)
    return made


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
        "run": run.name,
        "data": run.info.data,
        "device": asdict(device),
        "versions": _versions(),
        "class_names": list(run.info.class_names),
    }


def _measured(
    proof: Comparison, found: ConvertedModel, validation_top1: float, given: Measurement | None, device: DeviceProfile
) -> dict[str, float]:
    """Return the measured half of a deployment, by the names it has everywhere.

    A file in the device's own precision takes as long as was `given`; the device may be unable to time another one.
    """
    own = found.device.precision == device.precision
    latency = given if own else found.times.get(found.device.precision)
    times = (
        {
            "latency_ms": round(latency.latency_ms, 4),
            "latency_p50_ms": round(latency.p50_ms, 4),
            "latency_p90_ms": round(latency.p90_ms, 4),
            "latency_p99_ms": round(latency.p99_ms, 4),
            "latency_runs": latency.runs,
            "latency_converged": float(latency.converged),
        }
        if latency
        else {}
    )
    return times | {
        "validation_top1": round(validation_top1, 3),
        "test_images": proof.images,
        "test_top1_pytorch": round(proof.top1_pytorch, 3),
        "test_top1_onnx": round(found.accuracy.top1_after, 3),
        "test_correct_pytorch": proof.correct_pytorch,
        "test_correct_onnx": found.accuracy.correct_after,
        "max_relative_difference": proof.max_relative_difference,
    }


def _versions() -> dict[str, str]:
    """Return the versions of what made the file."""
    found = {"python": platform.python_version(), "ofa-kit": __version__}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _proof_of_preprocessing(source: onnx.ModelProto, subnet: Subnet, dataset: Dataset) -> dict[str, object]:
    """Compare the fp32 model that prepares images itself with PyTorch on test images as they are."""
    steps = preprocessing_steps(dataset.info, subnet.arch.resolution, inside_model=True)
    proof = compare_prepared(subnet, runner(with_preprocessing(source, steps)), dataset.test, dataset.info)
    return {"preprocessing": steps, "preprocessing_proof": asdict(proof)}


def _write(made: Deployment, model: onnx.ModelProto, subnet: Subnet, engine: BuiltEngine | None, target: Path) -> None:
    """Write each file in one step; a folder gets what people need who do not have this package."""
    model_path, json_path = deployment_paths(target)
    known = {**made.facts, "predicted": made.predicted, "measured": made.measured}
    save(with_metadata(model, {f"ofa_kit.{key}": value for key, value in known.items()}), model_path)
    weights_path = model_path.with_suffix(".safetensors")
    save_subnet(weights_path, subnet)
    if engine:
        with storage.replacing(model_path.with_suffix(".engine")) as temporary:
            temporary.write_bytes(engine.plan)
    names = {"model": model_path.name, "weights": weights_path.name}
    storage.write_text(json_path, json.dumps({**names, **known}, indent=2) + "\n")
    if model_path != target:
        storage.write_text(target / "predict.py", Path(predict.__file__).read_text(encoding="utf-8"))
        storage.write_text(target / "report.html", deployment_page(made))
