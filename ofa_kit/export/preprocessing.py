"""Preprocessing: the steps from an image file to the network's input, as data, and as the first nodes of a graph.

PyTorch resizes uint8 images and normalised floats alike: bilinear, antialiased, weights cut off at the border. ONNX
says the latter with `exclude_outside`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ofa_kit.data.dataset import DatasetInfo

PIXELS = "pixels"
"""Input of a graph that prepares images itself: uint8 (N, H, W, C), of any height and width."""
RESIZE = {
    "mode": "linear",
    "antialias": 1,
    "exclude_outside": 1,
    "coordinate_transformation_mode": "half_pixel",
}


def preprocessing_steps(info: DatasetInfo, resolution: int, *, inside_model: bool = False) -> dict[str, object]:
    """Return the steps from an image file to the input tensor, in order; `inside_model`: whether the graph has them."""
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
        "resize_to": resolution,
        "interpolation": "bilinear, antialiased",
        "inside_model": inside_model,
        "layout": "NHWC uint8, any height and width" if inside_model else "NCHW float32",
    }


def with_preprocessing(model: onnx.ModelProto, steps: Mapping[str, Any]) -> onnx.ModelProto:
    """Return the model with the steps before its first node; its input is PIXELS instead of prepared images."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    images = made.graph.input.pop()
    batch, channels = images.type.tensor_type.shape.dim[:2]
    first = _First()
    pixels = first.cropped(steps)
    planes = first.node("Transpose", [pixels], perm=[0, 3, 1, 2])
    floats = first.node("Cast", [planes], to=TensorProto.FLOAT)
    scaled = first.node("Mul", [floats, first.constant(np.float32(steps["scale"]))])
    centred = first.node("Sub", [scaled, first.channels(steps["mean"])])
    normal = first.node("Div", [centred, first.channels(steps["std"])])
    size = steps["resize_to"]
    first.node("Resize", [normal, "", "", first.constant(np.array([size, size]))], axes=[2, 3], **RESIZE)
    first.nodes[-1].output[0] = images.name
    nodes = [*first.nodes, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(first.constants)
    made.graph.value_info.append(images)  # runtimes cannot tell the size themselves
    shape = [batch.dim_value or batch.dim_param, "height", "width", channels.dim_value]
    made.graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))
    onnx.checker.check_model(made, full_check=True)
    return made


class _First:
    """Nodes and constants under construction; their names start with `prepare`."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def cropped(self, steps: Mapping[str, Any]) -> str:
        """Append what brings PIXELS to the size of the training images, still uint8."""
        if "resize" in steps:
            return self._resized(self.constant(np.array(steps["resize"])))
        lengths = self.node("Shape", [PIXELS], start=1, end=3)
        shorter = self.node("ReduceMin", [lengths], keepdims=1)
        times = self.node("Mul", [lengths, self.constant(np.array(steps["resize_shorter_side"]))])
        sizes = self.node("Div", [times, shorter])
        size = self.constant(np.array([steps["center_crop"]] * 2))
        spare = self.node("Cast", [self.node("Sub", [sizes, size])], to=TensorProto.FLOAT)
        half = self.node("Round", [self.node("Mul", [spare, self.constant(np.float32(0.5))])])
        start = self.node("Cast", [half], to=TensorProto.INT64)
        end = self.node("Add", [start, size])
        return self.node("Slice", [self._resized(sizes), start, end, self.constant(np.array([1, 2]))])

    def _resized(self, sizes: str) -> str:
        return self.node("Resize", [PIXELS, "", "", sizes], axes=[1, 2], **RESIZE)

    def channels(self, values: list[float]) -> str:
        """Return a constant with one value a channel (C, 1, 1)."""
        return self.constant(np.array(values, np.float32)[:, None, None])

    def constant(self, value: np.generic | np.ndarray[Any, Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"prepare_{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"prepare/{len(self.nodes)}_{op.lower()}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return str(self.nodes[-1].output[0])
