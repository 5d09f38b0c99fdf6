"""One fp32 graph in another precision: half, or int8 with QuantizeLinear/DequantizeLinear pairs.

Inputs and outputs stay fp32, so that callers feed every precision alike. Nodes keep their names and what is inserted
carries the name of the tensor it stands at, so that a block's kernels are still found by its prefix.
"""

import io
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from ofa_kit.errors import BackendError

Precision = Literal["fp32", "fp16", "int8"]
Flavour = Literal["cpu", "tensorrt"]
Ranges = Literal["extremes", "percentile"]
"""Where the range of an activation ends: at what was seen, or at its percentiles, which outliers do not widen."""
Array = NDArray[np.float32]

RANDOM_BATCHES = 4
PERCENTILE = 99.99
FEWEST_CHANNELS = 8
"""Convolutions of fewer input channels read images: widths of networks are multiples of this."""
TENSORRT_OPS = ["Conv", "Gemm", "Add"]
TENSORRT_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    # A pair behind a convolution would keep TensorRT from fusing the activation into it.
    "OpTypesToExcludeOutputQuantization": TENSORRT_OPS,
}


def in_precision(
    model: onnx.ModelProto, precision: Precision, flavour: Flavour = "cpu", *, images: Iterable[Array] | None = None
) -> onnx.ModelProto:
    """Return the model in a precision; `flavour` says for which kind of int8 kernels.

    int8 takes its activation ranges from batches of `images` (n, C, R, R); without them from random ones, which do
    for timing and not for accuracy.
    """
    if precision == "fp32":
        return model
    return half(model) if precision == "fp16" else quantized(model, flavour, images)


def serialized_in_precision(model: bytes, precision: Precision, flavour: Flavour = "cpu") -> bytes:
    """Return a serialized model in a precision, its ranges from random images; a BackendError for what is no model."""
    if precision == "fp32":
        return model
    try:
        return bytes(in_precision(onnx.load_from_string(model), precision, flavour).SerializeToString())
    except Exception as error:
        raise BackendError(f"cannot bring the model to {precision}: {' '.join(str(error).split())}") from error


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with weights and activations in half precision."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    # The converter appends its casts; runtimes that trust the order need those of the inputs first.
    nodes = sorted(converted.graph.node, key=lambda node: not node.name.startswith("graph_input_cast"))
    del converted.graph.node[:]
    converted.graph.node.extend(nodes)
    return converted


def quantized(
    model: onnx.ModelProto,
    flavour: Flavour,
    images: Iterable[Array] | None = None,
    *,
    ranges: Ranges = "extremes",
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """Return the model with int8 weights (per output channel) and activations; nodes named in `keep` stay fp32.

    "cpu" has unsigned activations with a zero point and int32 biases, and quantizes the outputs of convolutions, for
    kernels that go from int8 to int8. "tensorrt" has symmetric signed activations at the inputs of convolutions,
    pairs at the weights and fp32 biases: the form that its fusions look for. A model that has pairs stays as it is.
    """
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return model
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    source = onnx.ModelProto()
    source.CopyFrom(model)
    add_pre_process_metadata(source)  # batch norm is folded already; without the mark, advice to do so is logged
    # One batch after another: histograms are made of all activations of the batches that are read at once.
    histograms = {"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # histograms are announced there
        path = Path(folder) / "int8.onnx"
        quantize_static(
            source,
            path,
            _calibration(model, images),
            op_types_to_quantize=None if flavour == "cpu" else TENSORRT_OPS,
            per_channel=True,
            activation_type=QuantType.QUInt8 if flavour == "cpu" else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
            calibrate_method=CalibrationMethod.Percentile if ranges == "percentile" else CalibrationMethod.MinMax,
            extra_options=(histograms if ranges == "percentile" else {})
            | (TENSORRT_OPTIONS if flavour == "tensorrt" else {}),
        )
        found = onnx.load(path)
    del found.metadata_props[:]
    found.metadata_props.extend(model.metadata_props)
    return found


def image_convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that read images.

    In int8 they lose the most accuracy of all layers, and with so few channels they are no faster.
    """
    channels = {weight.name: weight.dims[1] for weight in model.graph.initializer if len(weight.dims) == 4}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv"
        and channels[node.input[1]] < FEWEST_CHANNELS
        and not any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    ]


def _calibration(model: onnx.ModelProto, images: Iterable[Array] | None) -> Any:
    """Return a reader of calibration inputs; an open batch size counts as one."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feeds: list[dict[str, Array]]) -> None:
            self._feeds, self._unread = feeds, iter(feeds)

        def __len__(self) -> int:
            return len(self._feeds)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._unread = iter(self._feeds[start_index:end_index])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._unread, None)

    if images is None:
        return Reader(list(_random_feeds(model)))
    name = model.graph.input[0].name
    return Reader([{name: batch} for batch in images])


def _random_feeds(model: onnx.ModelProto) -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(0)
    shapes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    for _ in range(RANDOM_BATCHES):
        yield {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
