"""The child of a macro search: weights for every operation of every layer; the arc comes with the call."""

from torch import Tensor, nn

from ofa_kit.nas.cells.ends import pooled
from ofa_kit.nas.cells.network import Dropout
from ofa_kit.nas.cells.operations import FactorizedReduce, own_statistics, separable
from ofa_kit.nas.enas.macro_arc import OPERATIONS, MacroArc
from ofa_kit.nas.enas.macro_network import macro_stem, windowed
from ofa_kit.nas.enas.macro_plan import MacroShape


class SharedLayer(nn.Module):
    """All operations of a layer; what is added is summed up and normalized."""

    def __init__(self, channels: int, *, adds: bool) -> None:
        super().__init__()
        self.operations = nn.ModuleDict({name: branch(name, channels) for name in OPERATIONS})
        self.norm = own_statistics(channels) if adds else None

    def forward(self, x: Tensor, operation: str, skips: list[Tensor]) -> Tensor:
        """Map the output before and those that are added, (N, C, S, S) each, to (N, C, S, S)."""
        out: Tensor = self.operations[operation](x)
        return out if self.norm is None else self.norm(sum(skips, out))


class MacroChild(nn.Module):
    """The network whose weights all arcs share; `child(images, arc)` gives logits.

    Batch norm always uses the batch's own statistics and remembers none. Reductions keep the channels, and halve the
    outputs that a later layer reads.
    """

    def __init__(self, shape: MacroShape) -> None:
        super().__init__()
        self.shape = shape
        self.stem = macro_stem(shape, own_statistics)
        self.layers = nn.ModuleList(SharedLayer(shape.channels, adds=number > 0) for number in range(shape.layers))
        self.reductions = nn.ModuleDict(
            {
                str(number): nn.ModuleList(
                    FactorizedReduce(shape.channels, shape.channels, own_statistics, activates=False)
                    for _ in range(number + 2)
                )
                for number in shape.reductions
            }
        )
        self.classifier = nn.Linear(shape.channels, shape.num_classes, bias=False)

    def forward(self, images: Tensor, arc: MacroArc) -> Tensor:
        """Map images (N, C, S, S) to logits (N, classes) of an arc's network."""
        return self.logits(images, arc)[0]

    def logits(self, images: Tensor, arc: MacroArc, dropout: Dropout | None = None) -> tuple[Tensor, None]:
        """Return the logits (N, classes); there is no auxiliary head."""
        outputs = {0: self.stem(images)}
        for number, (layer, module) in enumerate(zip(arc.layers, self.layers, strict=True)):
            outputs[number + 1] = module(outputs[number], layer.operation, [outputs[place] for place in layer.skips])
            if number in self.shape.reductions:
                outputs = self._halved(arc, number, outputs)
        features = pooled(outputs[self.shape.layers])
        return self.classifier(features if dropout is None else dropout(features)), None

    def _halved(self, arc: MacroArc, number: int, outputs: dict[int, Tensor]) -> dict[int, Tensor]:
        modules = self.reductions[str(number)]
        assert isinstance(modules, nn.ModuleList)
        return {place: modules[place](outputs[place]) for place in arc.read_after(number)}


def branch(operation: str, channels: int) -> nn.Sequential:
    """Return 1x1 convolution, batch norm, ReLU and the operation, which ends with batch norm and ReLU or is a pool."""
    first = nn.Conv2d(channels, channels, 1, bias=False)
    kind, _, size = operation.rpartition("_")
    k = int(size[0])
    before = [first, own_statistics(channels), nn.ReLU()]
    if kind in ("avg_pool", "max_pool"):
        return nn.Sequential(*before, windowed(operation, channels, own_statistics))
    whole = nn.Conv2d(channels, channels, k, padding=k // 2, bias=False)
    convs = separable(channels, k, 1) if kind == "sep_conv" else [whole]
    return nn.Sequential(*before, *convs, own_statistics(channels), nn.ReLU())
