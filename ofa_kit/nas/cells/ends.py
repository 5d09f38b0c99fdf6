"""What stands before and behind the cells: stems, the classifier's pooling, auxiliary heads."""

from torch import Tensor, nn

from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.operations import Norm, batch_norm
from ofa_kit.nas.cells.plan import STEM_MULTIPLIER, Stem

AUXILIARY_POOL = 5
AUXILIARY_CHANNELS = (128, 768)


def make_stem(kind: Stem, in_channels: int, channels: int, norm: Norm = batch_norm) -> nn.ModuleList:
    """Return one or two modules: their outputs are the inputs of the first cell."""
    if kind == "small-images":
        outside = STEM_MULTIPLIER * channels
        return nn.ModuleList([nn.Sequential(*_conv(in_channels, outside, 1, norm))])
    middle = channels // 2
    first = nn.Sequential(*_conv(in_channels, middle, 2, norm), nn.ReLU(), *_conv(middle, channels, 2, norm))
    return nn.ModuleList([first, nn.Sequential(nn.ReLU(), *_conv(channels, channels, 2, norm))])


def stem_channels(kind: Stem, channels: int) -> int:
    """Return the channels of both inputs of the first cell."""
    return STEM_MULTIPLIER * channels if kind == "small-images" else channels


def through_stem(stem: nn.ModuleList, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return both inputs of the first cell."""
    first = stem[0](images)
    return first, stem[1](first) if len(stem) > 1 else first


class AuxiliaryHead(nn.Module):
    """A classifier on the output of the cell at two thirds (Szegedy et al. 2015), in training only.

    That of photos omits the last batch norm, as the authors' ImageNet results do.
    """

    def __init__(self, in_channels: int, num_classes: int, kind: Stem, size: int, *, bias: bool = True) -> None:
        super().__init__()
        small = kind == "small-images"
        middle, outside = AUXILIARY_CHANNELS
        stride = 3 if small else 2
        left = (size - AUXILIARY_POOL) // stride + 1
        if left < 2:
            raise RecipeError(
                f"an auxiliary head needs 8 or more rows at two thirds of the network, found {size}; "
                "leave it out (auxiliary_weight: 0) or give larger images"
            )
        norm = [nn.BatchNorm2d(outside)] if small else []
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(AUXILIARY_POOL, stride=stride, count_include_pad=False),
            nn.Conv2d(in_channels, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, outside, 2, bias=False),
            *norm,
            nn.ReLU(),
        )
        self.classifier = nn.Linear(outside, num_classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, S, S) to logits (N, classes)."""
        logits: Tensor = self.classifier(pooled(self.features(x)))
        return logits


def pooled(x: Tensor) -> Tensor:
    """Return the mean over rows and columns (N, C)."""
    return x.mean((2, 3))


def _conv(in_channels: int, out_channels: int, stride: int, norm: Norm) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False), norm(out_channels)]
