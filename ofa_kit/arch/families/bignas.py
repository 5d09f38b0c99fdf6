"""BigNAS-style spaces: stage widths are elastic too, one kernel size and expansion a stage, kernels share centres."""

from ofa_kit.arch.choices import ConvSpace, HeadSpace, StageSpace
from ofa_kit.arch.space import SearchSpace


def attentive_nas(name: str) -> SearchSpace:
    """Return the space of AttentiveNAS (Wang et al. 2021, table 7) and AlphaNet, in the style of BigNAS."""
    rows = (
        # widths, depths, kernel_sizes, expand_ratios, stride, squeeze-and-excite
        ((16, 24), (1, 2), (3, 5), (1,), 1, False),
        ((24, 32), (3, 4, 5), (3, 5), (4, 5, 6), 2, False),
        ((32, 40), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, True),
        ((64, 72), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, False),
        ((112, 120, 128), (3, 4, 5, 6, 7, 8), (3, 5), (4, 5, 6), 1, True),
        ((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (3, 5), (6,), 2, True),
        ((216, 224), (1, 2), (3, 5), (6,), 1, True),
    )
    return SearchSpace(
        name=name,
        resolutions=(192, 224, 256, 288),
        stages=tuple(
            StageSpace(
                widths=widths,
                depths=depths,
                kernel_sizes=kernel_sizes,
                expand_ratios=expand_ratios,
                stride=stride,
                activation="swish",
                squeeze_excite=squeeze,
                shared=True,
                projected=True,
            )
            for widths, depths, kernel_sizes, expand_ratios, stride, squeeze in rows
        ),
        in_channels=3,
        num_classes=1000,
        stem=(ConvSpace(widths=(16, 24), stride=2, activation="swish", elastic=True),),
        head=HeadSpace(activation="swish", conv_expand_ratio=6, feature_widths=(1792, 1984), elastic=True),
        kernel_transforms=False,
    )


def bignas_small_images() -> SearchSpace:
    """CIFAR sizes in the style of BigNAS: widths, depths, kernel sizes and expansions are elastic."""
    rows = (
        ((16, 24), (1, 2, 3), 2, False),
        ((32, 40, 48), (1, 2, 3), 2, True),
        ((64, 80, 96), (1, 2, 3), 2, True),
    )
    return SearchSpace(
        name="bignas-small-images",
        resolutions=(20, 24, 28, 32),
        stages=tuple(
            StageSpace(
                widths=widths,
                depths=depths,
                kernel_sizes=(3, 5),
                expand_ratios=(2, 3, 4),
                stride=stride,
                activation="swish",
                squeeze_excite=squeeze,
                shared=True,
                projected=True,
            )
            for widths, depths, stride, squeeze in rows
        ),
        in_channels=3,
        num_classes=10,
        stem=(ConvSpace(widths=(16, 24), activation="swish", elastic=True),),
        head=HeadSpace(activation="swish", conv_expand_ratio=4, feature_widths=(384, 512), elastic=True),
        kernel_transforms=False,
    )
