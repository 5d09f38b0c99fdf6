"""Spaces of bottlenecks: once-for-all's ResNet50D, elastic in depth, expansion and width."""

from collections.abc import Sequence

from ofa_kit.arch.choices import ConvSpace, HeadSpace, StageSpace
from ofa_kit.arch.families.shuffle import CHANNEL_SCALES
from ofa_kit.arch.layer import make_divisible
from ofa_kit.arch.space import SearchSpace

WIDTH_MULTIPLIERS = (0.65, 0.8, 1.0)
BITS = (1, 2, 3, 4)
"""Of weights and of activations in SPOS's search of mixed precision."""


def ofa_resnet50d(name: str) -> SearchSpace:
    """Return MIT once-for-all's ResNet50D space: stem convolution, depths, widths and expansions are elastic."""
    stem_widths = tuple(make_divisible(64 * m) for m in WIDTH_MULTIPLIERS)
    middle = tuple(make_divisible(width // 2) for width in stem_widths)
    return SearchSpace(
        name=name,
        resolutions=tuple(range(128, 225, 4)),
        stages=tuple(
            StageSpace(
                widths=tuple(make_divisible(width * m) for m in WIDTH_MULTIPLIERS),
                depths=tuple(base + extra for extra in (0, 1, 2)),
                kernel_sizes=(3,),
                expand_ratios=(0.2, 0.25, 0.35),
                stride=stride,
                activation="relu",
                block="bottleneck",
            )
            for width, base, stride in zip((256, 512, 1024, 2048), (2, 2, 4, 2), (1, 2, 2, 2), strict=True)
        ),
        in_channels=3,
        num_classes=1000,
        stem=(
            ConvSpace(widths=middle, stride=2, activation="relu", elastic=True),
            ConvSpace(widths=(), activation="relu", residual=True),
            ConvSpace(widths=stem_widths, activation="relu", elastic=True),
        ),
        stem_max_pool=True,
        head=HeadSpace(activation="relu"),
    )


def spos_bits_resnet50(name: str) -> SearchSpace:
    """Return ResNet-50 with bits of weights and activations, and hidden channels, to choose in each block.

    SPOS's search of mixed precision (Guo et al. 2020, sec. 3.4); the stem and the classifier are not quantised.
    """
    return SearchSpace(
        name=name,
        resolutions=(224,),
        stages=_bit_stages((256, 512, 1024, 2048), (3, 4, 6, 3), (1, 2, 2, 2)),
        in_channels=3,
        num_classes=1000,
        stem=(ConvSpace(widths=(64,), kernel_size=7, stride=2, activation="relu"),),
        stem_max_pool=True,
        head=HeadSpace(activation="relu"),
    )


def spos_bits_small_images(name: str) -> SearchSpace:
    """CIFAR sizes: three stages of two bottlenecks with bits and hidden channels to choose."""
    return SearchSpace(
        name=name,
        resolutions=(32,),
        stages=_bit_stages((64, 128, 256), (2, 2, 2), (2, 2, 2)),
        in_channels=3,
        num_classes=10,
        stem=(ConvSpace(widths=(32,), activation="relu"),),
        head=HeadSpace(activation="relu"),
        channel_divisor=2,
    )


def _bit_stages(widths: Sequence[int], depths: Sequence[int], strides: Sequence[int]) -> tuple[StageSpace, ...]:
    return tuple(
        StageSpace(
            widths=(width,),
            depths=(depth,),
            kernel_sizes=(3,),
            expand_ratios=tuple(round(0.25 * scale, 2) for scale in CHANNEL_SCALES),
            stride=stride,
            activation="relu",
            block="bottleneck",
            downsample="conv",
            weight_bits=BITS,
            activation_bits=BITS,
        )
        for width, depth, stride in zip(widths, depths, strides, strict=True)
    )


def resnet_small_images() -> SearchSpace:
    """CIFAR sizes: ResNetD's blocks without the early strides, elastic like once-for-all's."""
    return SearchSpace(
        name="resnet-small-images",
        resolutions=(16, 20, 24, 28, 32),
        stages=tuple(
            StageSpace(
                widths=widths,
                depths=(1, 2, 3),
                kernel_sizes=(3,),
                expand_ratios=(0.2, 0.25, 0.35),
                stride=stride,
                activation="relu",
                block="bottleneck",
            )
            for widths, stride in (((64, 96), 2), ((128, 192), 2), ((256, 384), 2))
        ),
        in_channels=3,
        num_classes=10,
        stem=(
            ConvSpace(widths=(16, 24), activation="relu", elastic=True),
            ConvSpace(widths=(), activation="relu", residual=True),
            ConvSpace(widths=(32, 48), activation="relu", elastic=True),
        ),
        head=HeadSpace(activation="relu"),
    )
