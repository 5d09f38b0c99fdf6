"""Macro networks as ONNX models with batch norm folded into the convolutions."""

import onnx

from ofa_kit.nas.cells.onnx import CellGraph
from ofa_kit.nas.enas.macro_network import MacroLayerModule, MacroNetwork


def macro_model(network: MacroNetwork, *, batch: int | None = 1) -> onnx.ModelProto:
    """Return images (N, C, S, S) to logits (N, classes); batch None leaves N open."""
    graph, shape = CellGraph(), network.shape
    outputs = {0: graph.sequence(network.stem, "images", "stem")}
    for number, (layer, module) in enumerate(zip(network.arc.layers, network.layers, strict=True)):
        assert isinstance(module, MacroLayerModule)
        name = f"layer{number}"
        tensor = graph.operation(module.operation, outputs[number], name)
        if module.join is not None:
            parts = [*(outputs[place] for place in layer.skips), tensor]
            joined = parts[0] if len(parts) == 1 else graph.node("Concat", parts, f"{name}/concat", axis=1)
            tensor = graph.operation(module.join, joined, f"{name}/join")
        outputs[number + 1] = tensor
        if number in shape.reductions:
            outputs = {
                int(place): graph.operation(reduce, outputs[int(place)], f"{name}/reduce{place}")
                for place, reduce in network.reduced(number)
            }
    named = list(network.classifier.named_parameters())
    return graph.classifier(outputs[shape.layers], named, shape.image, shape.num_classes, batch)


def macro_bytes(network: MacroNetwork, batch: int) -> bytes:
    """Return the serialized model for so many images."""
    return bytes(macro_model(network.eval(), batch=batch).SerializeToString())
