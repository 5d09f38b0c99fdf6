"""ConvNets as ONNX models."""

import onnx
from torch import nn

from ofa_kit.nas.nas_rl.conv_net import IMAGE, Joint
from ofa_kit.nas.nas_rl.network import ConvChild, ConvReluNorm
from ofa_kit.nas.onnx_graph import OnnxGraph


def child_model(network: ConvChild, *, batch: int | None = 1) -> onnx.ModelProto:
    """Return images (N, C, S, S) to logits (N, classes); batch None leaves N open."""
    graph = _Graph()
    outputs = {IMAGE: "images"}
    for number, (layer, placed) in enumerate(zip(network.layers, network.placed.layers, strict=True), start=1):
        assert isinstance(layer, ConvReluNorm)
        tensor = graph.joined(placed.reads, outputs, f"layer{number}/join")
        outputs[number] = graph.layer(layer, tensor, f"layer{number}")
    tensor = graph.joined(network.placed.reads, outputs, "join")
    named = list(network.classifier.named_parameters())
    return graph.classifier(tensor, named, network.shape.image, network.shape.num_classes, batch)


def child_bytes(network: ConvChild, batch: int) -> bytes:
    """Return the serialized model for so many images."""
    return bytes(child_model(network.eval(), batch=batch).SerializeToString())


class _Graph(OnnxGraph):
    def joined(self, joint: Joint, outputs: dict[int, str], name: str) -> str:
        """Append padding with zeros and a concatenation, where they are needed."""
        parts = []
        for source, (height, width) in zip(joint.sources, joint.sizes, strict=True):
            below, right = joint.height - height, joint.width - width
            tensor = outputs[source]
            if below or right:
                pads = self.integers(f"{name}/pads{source}", [0, 0, 0, 0, 0, 0, below, right])
                tensor = self.node("Pad", [tensor, pads], f"{name}/pad{source}", mode="constant")
            parts.append(tensor)
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, name, axis=1)

    def layer(self, layer: ConvReluNorm, tensor: str, name: str) -> str:
        """Append convolution, ReLU and batch norm, which stands behind the ReLU and so cannot be folded."""
        conv, norm = layer.conv, layer.norm
        assert isinstance(conv.bias, nn.Parameter)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        rows, columns = (int(value) for value in conv.padding)
        weights = [self.weight(f"{name}/conv.weight", conv.weight), self.weight(f"{name}/conv.bias", conv.bias)]
        tensor = self.node(
            "Conv",
            [tensor, *weights],
            f"{name}/conv",
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[rows, columns, rows, columns],
        )
        tensor = self.node("Relu", [tensor], f"{name}/relu")
        values = {"scale": norm.weight, "shift": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
        weights = [self.weight(f"{name}/norm.{part}", value) for part, value in values.items()]
        return self.node("BatchNormalization", [tensor, *weights], f"{name}/norm", epsilon=norm.eps)
