"""Conversion of a deployment: fp32 to fp16 or int8, with what it costs in top-1 and saves in time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ofa_kit.data.batches import evaluation_batches
from ofa_kit.data.dataset import MemoryImages
from ofa_kit.errors import BackendError, ExportError, OfaKitError
from ofa_kit.export.compare import Comparison, Converted, compare_converted
from ofa_kit.graphs.precision import PERCENTILE, Flavour, half, image_convolutions, quantized
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.backends.backend import Model
from ofa_kit.latency.backends.onnxruntime import TENSORRT, OrtBackend
from ofa_kit.latency.device import DeviceProfile, Precision
from ofa_kit.latency.protocol import Measurement, measure
from ofa_kit.supernet.supernet import resize
from ofa_kit.training.evaluate import Evaluator

CALIBRATION_IMAGES = 64
"""250 images changed top-1 of CIFAR-10 subnets by less than 0.2 points, either way."""
CALIBRATION_BATCH = 8
"""Where the model's batch size is open."""
LITTLE = 0.03
"""Share by which repeated measurements of one model differ."""
ON_TENSORRT = ("tensorrt", "tensorrt-rtx")
JUDGE = DeviceProfile(name="judge", backend="onnxruntime")
"""ONNX Runtime's CPU, whatever the device: it computes what the file says."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What becomes of a subnet's fp32 graph on its way into the file."""

    precision: Precision | None = None
    """None: that of the device."""
    max_accuracy_drop: float = 1.0
    """Points of test top-1 that a lower precision may cost."""
    embed_preprocessing: bool = False
    """Whether the graph takes images as they are: uint8, of any size."""

    def __post_init__(self) -> None:
        if not self.max_accuracy_drop >= 0:
            raise OfaKitError(f"--max-accuracy-drop must be 0 points or more, found {self.max_accuracy_drop:g}")


@dataclass(frozen=True, kw_only=True)
class ConvertedModel:
    """The graph of a file, and what its precision is worth."""

    model: onnx.ModelProto
    device: DeviceProfile
    """In the precision of the graph."""
    loadable: onnx.ModelProto
    """What a backend of that precision is given so that it runs the graph."""
    accuracy: Converted
    bytes_before: int
    """Size of the fp32 graph."""
    kept: list[str] = field(default_factory=list)
    """Nodes that stayed fp32 in an int8 graph."""
    times: Mapping[str, Measurement] = field(default_factory=dict)
    """By precision, fp32 and the graph's timed in turn; {} for fp32 or where the device does not run both."""
    not_timed: str = ""
    """Why the device does not run both."""

    def facts(self) -> dict[str, object]:
        """Return what the deployment's JSON says of it."""
        precision, found = self.device.precision, self.accuracy
        if precision == "fp32":
            return {"precision": precision}
        int8 = {
            "flavour": flavour_of(self.device),
            "calibration_images": CALIBRATION_IMAGES,
            "activation_ranges": f"{PERCENTILE:g}th percentile",
            "kept_fp32": self.kept,
        }
        times = self.times.items()
        compared = {
            **(int8 if precision == "int8" else {}),
            "test_images": found.images,
            "test_correct": {"fp32": found.correct_before, precision: found.correct_after},
            "test_same_class": found.same_class,
            "top1_drop": round(found.drop, 3),
            "latency_ms": {name: round(time.latency_ms, 4) for name, time in times},
            "latency_p50_ms": {name: round(time.p50_ms, 4) for name, time in times},
            "latency_cv": {name: round(time.cv, 4) for name, time in times},
            "latency_runs": {name: time.runs for name, time in times},
            "latency_converged": {name: time.converged for name, time in times},
            "model_bytes": {"fp32": self.bytes_before, precision: self.model.ByteSize()},
            "verdict": self.verdict(),
        }
        return {"precision": precision, "conversion": compared}

    def verdict(self) -> str:
        """Say whether the lower precision pays on the device, whatever the answer."""
        precision, name = self.device.precision, self.device.name
        if not self.times:
            return f"{precision} was not timed: {self.not_timed}"
        before, after = self.times["fp32"].latency_ms, self.times[precision].latency_ms
        if after * (1 + LITTLE) < before:
            return f"{precision} pays on {name}: {before / after:.2f} times as fast as fp32"
        if before * (1 + LITTLE) < after:
            return f"{precision} does not pay on {name}: it takes {after / before:.2f} times as long as fp32"
        return f"{precision} gains no time on {name}: it takes {after / before:.2f} times as long as fp32"


def convert(
    source: onnx.ModelProto, before: Comparison, device: DeviceProfile, evaluator: Evaluator, conversion: Conversion
) -> ConvertedModel:
    """Return an fp32 model in the asked precision, judged on the test set and timed beside the fp32 one.

    An ExportError when top-1 drops by more than the conversion allows.
    """
    device = replace(device, precision=conversion.precision or device.precision)
    if device.precision == "fp32":
        accuracy = compare_converted(before, before.classes_onnx, evaluator.dataset.test.labels)
        return ConvertedModel(
            model=source, device=device, loadable=source, accuracy=accuracy, bytes_before=source.ByteSize()
        )
    loadable = loadable_model(source, device, evaluator)
    model = half(source) if device.precision == "fp16" else loadable
    accuracy = _judged(model, source, before, evaluator)
    _refuse_drop(accuracy, device.precision, conversion.max_accuracy_drop)
    times, why_not = {}, ""
    try:
        times = times_beside_fp32(source, loadable, device)
    except BackendError as error:
        why_not = str(error)
    kept = kept_fp32(source, device) if device.precision == "int8" else []
    return ConvertedModel(
        model=model,
        device=device,
        loadable=loadable,
        accuracy=accuracy,
        bytes_before=source.ByteSize(),
        kept=kept,
        times=times,
        not_timed=why_not,
    )


def loadable_model(source: onnx.ModelProto, device: DeviceProfile, evaluator: Evaluator) -> onnx.ModelProto:
    """Return what the backend of a device is given so that it runs the very graph that is deployed for it.

    Backends bring fp32 graphs to half as files are; int8 pairs with ranges from training images they leave alone.
    """
    if device.precision != "int8":
        return source
    images = _calibration_batches(source, evaluator)
    return quantized(source, flavour_of(device), images, ranges="percentile", keep=kept_fp32(source, device))


def flavour_of(device: DeviceProfile) -> Flavour:
    """Return the kind of int8 kernels that a device has."""
    return "tensorrt" if device.backend in ON_TENSORRT or device.provider == TENSORRT else "cpu"


def kept_fp32(source: onnx.ModelProto, device: DeviceProfile) -> list[str]:
    """Return the nodes that int8 leaves alone: on CPUs those that read images, for accuracy and for speed."""
    return image_convolutions(source) if flavour_of(device) == "cpu" else []


def times_beside_fp32(
    source: onnx.ModelProto, loadable: onnx.ModelProto, device: DeviceProfile
) -> dict[str, Measurement]:
    """Time the fp32 model and the converted one in turn, by precision; a BackendError where one does not run."""
    plain, backend = backend_for(replace(device, precision="fp32")), backend_for(device)
    loaded: dict[str, Model] = {
        "fp32": plain.load(source.SerializeToString()),
        device.precision: backend.load(loadable.SerializeToString()),
    }
    return measure(loaded, np.random.default_rng(0), device.protocol, timed=backend.timer)


def runner(model: onnx.ModelProto) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Return a function from images to logits that feeds the model batches of its own size."""
    session = OrtBackend(JUDGE).load(model.SerializeToString())
    size = _batch_of(model)

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        if not size:
            return session.predict([images])
        padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % size, axis=0)])
        return session.predict(padded[i : i + size] for i in range(0, len(padded), size))[: len(images)]

    return run


def _judged(model: onnx.ModelProto, source: onnx.ModelProto, before: Comparison, evaluator: Evaluator) -> Converted:
    """Compare a converted model on the test set with what the fp32 one answered there."""
    test, run, size = evaluator.dataset.test, runner(model), _resolution_of(source)
    batches = evaluation_batches(test, evaluator.dataset.info)
    classes = [run(resize(images, size).contiguous().numpy()).argmax(1) for images, _ in batches]
    return compare_converted(before, np.concatenate(classes), test.labels)


def _refuse_drop(found: Converted, precision: Precision, allowed: float) -> None:
    if not found.drop <= allowed:
        raise ExportError(
            f"{precision} has {found.correct_after} of {found.images} test images right, fp32 {found.correct_before}: "
            f"{found.drop:.2f} points less, and --max-accuracy-drop is {allowed:g}; choose another --precision, "
            "another subnet, or allow more"
        )


def _calibration_batches(source: onnx.ModelProto, evaluator: Evaluator) -> Iterator[NDArray[np.float32]]:
    """Yield training images (n, C, R, R), spread over the set, in batches of the model's own size."""
    size = _batch_of(source) or CALIBRATION_BATCH
    images = evaluator.calibration_images
    count = -(-CALIBRATION_IMAGES // size) * size
    chosen = np.linspace(0, len(images.labels) - 1, count).round().astype(np.int64)
    some = MemoryImages(images.images[chosen], images.labels[chosen])
    cropped = replace(evaluator.dataset.info, crop_fraction=1.0)
    for batch, _ in evaluation_batches(some, cropped, batch_size=size):
        yield resize(batch, _resolution_of(source)).contiguous().numpy()


def _batch_of(model: onnx.ModelProto) -> int:
    """Return the batch size that a model is for; 0 where it is open."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _resolution_of(model: onnx.ModelProto) -> int:
    """Return R of a model of prepared images (N, C, R, R)."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[3].dim_value)
