"""Spaces of inverted residuals: once-for-all's MobileNetV3 and ProxylessNAS, and small ones for small images."""

from ofa_kit.arch.choices import Activation, ConvSpace, HeadSpace, StageSpace
from ofa_kit.arch.layer import make_divisible
from ofa_kit.arch.space import SearchSpace

OFA_RESOLUTIONS = tuple(range(128, 225, 4))


def ofa_mbv3(name: str, width_multiplier: float) -> SearchSpace:
    """Return once-for-all's MobileNetV3 space (Cai et al. 2020) at a width multiplier."""
    widths = [make_divisible(width * width_multiplier) for width in (24, 40, 80, 112, 160)]
    first = make_divisible(16 * width_multiplier)
    return SearchSpace(
        name=name,
        resolutions=OFA_RESOLUTIONS,
        stages=tuple(
            _ofa_stage(width, stride, "hard_swish" if index >= 2 else "relu", squeeze_excite=index in (1, 3, 4))
            for index, (width, stride) in enumerate(zip(widths, (2, 2, 2, 1, 2), strict=True))
        ),
        in_channels=3,
        num_classes=1000,
        stem=(ConvSpace(widths=(first,), stride=2, activation="hard_swish"),),
        first_width=first,
        head=HeadSpace(
            conv_width=make_divisible(960 * width_multiplier), feature_widths=(make_divisible(1280 * width_multiplier),)
        ),
    )


def ofa_proxyless(name: str, width_multiplier: float) -> SearchSpace:
    """Return once-for-all's ProxylessNAS space, MobileNetV2 blocks throughout (Cai et al. 2019, 2020)."""
    widths = [make_divisible(width * width_multiplier) for width in (24, 40, 80, 96, 192, 320)]
    return SearchSpace(
        name=name,
        resolutions=OFA_RESOLUTIONS,
        stages=(
            *(_ofa_stage(w, stride, "relu6") for w, stride in zip(widths[:5], (2, 2, 2, 1, 2), strict=True)),
            _ofa_stage(widths[5], 1, "relu6", depths=(1,)),
        ),
        in_channels=3,
        num_classes=1000,
        stem=(ConvSpace(widths=(make_divisible(32 * width_multiplier),), stride=2, activation="relu6"),),
        first_width=make_divisible(16 * width_multiplier),
        first_activation="relu6",
        head=HeadSpace(activation="relu6", conv_width=make_divisible(1280 * width_multiplier)),
        bn_eps=1e-3,
    )


def _ofa_stage(
    width: int,
    stride: int,
    activation: Activation,
    *,
    squeeze_excite: bool = False,
    depths: tuple[int, ...] = (2, 3, 4),
) -> StageSpace:
    """Return a stage with the choices that once-for-all's mobile spaces have in common."""
    return StageSpace(
        widths=(width,),
        depths=depths,
        kernel_sizes=(3, 5, 7),
        expand_ratios=(3, 4, 6),
        stride=stride,
        activation=activation,
        squeeze_excite=squeeze_excite,
    )


def mbv3_tiny() -> SearchSpace:
    """Digits of 8 to 32 pixels: seconds to train, fractions of a millisecond to run."""
    return SearchSpace(
        name="mbv3-tiny",
        resolutions=(8, 12, 16, 24, 32),
        stages=tuple(
            StageSpace(
                widths=(width,),
                depths=(1, 2),
                kernel_sizes=(3, 5),
                expand_ratios=(2, 3, 4),
                stride=2,
                activation="hard_swish" if squeeze else "relu",
                squeeze_excite=squeeze,
            )
            for width, squeeze in ((16, False), (24, True))
        ),
        in_channels=1,
        num_classes=10,
        stem=(ConvSpace(widths=(16,), activation="hard_swish"),),
        first_width=16,
        head=HeadSpace(conv_width=64, feature_widths=(128,)),
    )


def mbv3_small_images() -> SearchSpace:
    """CIFAR and Fashion-MNIST sizes: stem without stride, three elastic stages of up to three blocks."""
    return SearchSpace(
        name="mbv3-small-images",
        resolutions=(20, 24, 28, 32),
        stages=tuple(
            StageSpace(
                widths=(width,),
                depths=(1, 2, 3),
                kernel_sizes=kernel_sizes,
                expand_ratios=(2, 3, 4),
                stride=2,
                activation="hard_swish" if squeeze else "relu",
                squeeze_excite=squeeze,
            )
            for width, kernel_sizes, squeeze in ((24, (3, 5), False), (48, (3, 5, 7), True), (96, (3, 5), True))
        ),
        in_channels=3,
        num_classes=10,
        stem=(ConvSpace(widths=(16,), activation="hard_swish"),),
        first_width=16,
        head=HeadSpace(conv_width=384, feature_widths=(512,)),
    )
