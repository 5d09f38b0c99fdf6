"""Spaces of choice blocks (SPOS, Guo et al. 2020): each of 20 blocks is one of four ShuffleNetV2-style units.

Depth and widths are fixed; where there is channel search, each block's hidden channels are scaled too.
"""

from collections.abc import Sequence

from ofa_kit.arch.choices import BlockSpace, ConvSpace, HeadSpace, Operation, StageSpace
from ofa_kit.arch.space import SearchSpace

CHANNEL_SCALES = (0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6)
"""Hidden channels by half of the output channels, as published for channel search."""
DEPTHS = (4, 4, 8, 4)
KERNELS = (Operation.SHUFFLE3, Operation.SHUFFLE5, Operation.SHUFFLE7)
BY_MACS = (*KERNELS, Operation.XCEPTION)
STRIDED_BY_MACS = (Operation.XCEPTION, *KERNELS)
"""An xception unit takes the stride first, so its 1x1 convolutions see a quarter of the pixels."""


def spos_shufflenet(name: str, *, scales: Sequence[float] = (1,)) -> SearchSpace:
    """Return the published space for 224 pixels and 1000 classes."""
    return SearchSpace(
        name=name,
        resolutions=(224,),
        stages=_stages((64, 160, 320, 640), DEPTHS, scales),
        in_channels=3,
        num_classes=1000,
        stem=(ConvSpace(widths=(16,), stride=2, activation="relu"),),
        head=HeadSpace(activation="relu", conv_width=1024, classifier_bias=False),
        channel_divisor=2,
    )


def spos_small_images(name: str, *, scales: Sequence[float] = (1,)) -> SearchSpace:
    """Return a space for CIFAR sizes: a stem without stride and three stages of three blocks."""
    return SearchSpace(
        name=name,
        resolutions=(32,),
        stages=_stages((64, 128, 256), (3, 3, 3), scales),
        in_channels=3,
        num_classes=10,
        stem=(ConvSpace(widths=(16,), activation="relu"),),
        head=HeadSpace(activation="relu", conv_width=256, classifier_bias=False),
        channel_divisor=2,
    )


def _stages(widths: Sequence[int], depths: Sequence[int], scales: Sequence[float]) -> tuple[StageSpace, ...]:
    return tuple(
        StageSpace(
            widths=(width,),
            depths=(depth,),
            kernel_sizes=(3, 5, 7),
            expand_ratios=tuple(scales),
            stride=2,
            activation="relu",
            block="choice",
            operations=BY_MACS,
            blocks=tuple(
                BlockSpace(
                    kernel_sizes=(3, 5, 7),
                    expand_ratios=tuple(scales),
                    operations=BY_MACS if block else STRIDED_BY_MACS,
                )
                for block in range(depth)
            ),
        )
        for width, depth in zip(widths, depths, strict=True)
    )
