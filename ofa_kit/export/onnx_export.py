"""Export: a subnet's folded weights into the graph that was profiled, with what is known of it in the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from ofa_kit import storage
from ofa_kit.arch.layer import Layer
from ofa_kit.graphs.build import Weights, network_model
from ofa_kit.supernet.subnet import Subnet


def export(subnet: Subnet, *, batch: int | None = 1) -> onnx.ModelProto:
    """Return the ONNX model of a subnet in evaluation mode, batch norm folded; batch None leaves its size open."""

    def weights_of(layer: Layer) -> Weights:
        return folded_weights(subnet.layers[layer.name])

    model = network_model(subnet.specs, weights_of, batch=batch)
    onnx.checker.check_model(model, full_check=True)
    return model


def with_metadata(model: onnx.ModelProto, facts: Mapping[str, object]) -> onnx.ModelProto:
    """Return a copy whose metadata holds `facts`; what is not text is written as JSON."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.helper.set_model_props(copy, {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()})
    return copy


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write one self-contained file in one step."""
    with storage.replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


@torch.no_grad()
def folded_weights(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a static layer, each batch norm folded into the convolution before it, and its clips."""
    children = dict(module.named_children())
    if not children:
        return {name: _float32(tensor) for name, tensor in module.named_parameters()}
    found: dict[str, NDArray[np.float32]] = {}
    for name, child in children.items():
        if not isinstance(child, nn.Conv2d):
            continue
        weight = child.weight.double()
        bias = None if child.bias is None else child.bias.double()
        norm = children.get("bn" if name == "conv" else f"{name}_bn")
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = weight * scale[:, None, None, None]
            bias = norm.bias.double() - norm.running_mean.double() * scale
        found[f"{name}.weight"] = _float32(weight)
        if bias is not None:
            found[f"{name}.bias"] = _float32(bias)
    return found | {n: _float32(p) for n, p in module.named_parameters(recurse=False) if n.endswith("_clip")}


def _float32(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
