"""The spaces that come with the package."""

from ofa_kit.arch.layers import make_divisible
from ofa_kit.arch.space import SearchSpace, StageSpace
from ofa_kit.errors import UnknownNameError


def ofa_mbv3(name: str, width_multiplier: float) -> SearchSpace:
    """Return MIT once-for-all's MobileNetV3 space (Cai et al. 2020) at a width multiplier."""
    widths = [make_divisible(width * width_multiplier) for width in (24, 40, 80, 112, 160)]
    first = make_divisible(16 * width_multiplier)
    return SearchSpace(
        name=name,
        resolutions=tuple(range(128, 225, 4)),
        stages=tuple(
            StageSpace(
                width=width,
                depths=(2, 3, 4),
                kernel_sizes=(3, 5, 7),
                expand_ratios=(3, 4, 6),
                stride=stride,
                activation=activation,
                squeeze_excite=squeeze,
            )
            for width, stride, activation, squeeze in zip(
                widths,
                (2, 2, 2, 1, 2),
                ("relu", "relu", "hard_swish", "hard_swish", "hard_swish"),
                (False, True, False, True, True),
                strict=True,
            )
        ),
        in_channels=3,
        num_classes=1000,
        stem_width=first,
        stem_stride=2,
        first_width=first,
        final_expand_width=make_divisible(960 * width_multiplier),
        feature_width=make_divisible(1280 * width_multiplier),
    )


def _mbv3_tiny() -> SearchSpace:
    """Digits of 8 to 32 pixels: seconds to train, fractions of a millisecond to run."""
    return SearchSpace(
        name="mbv3-tiny",
        resolutions=(8, 12, 16, 24, 32),
        stages=(
            StageSpace(
                width=16,
                depths=(1, 2),
                kernel_sizes=(3, 5),
                expand_ratios=(2, 3, 4),
                stride=2,
                activation="relu",
                squeeze_excite=False,
            ),
            StageSpace(
                width=24,
                depths=(1, 2),
                kernel_sizes=(3, 5),
                expand_ratios=(2, 3, 4),
                stride=2,
                activation="hard_swish",
                squeeze_excite=True,
            ),
        ),
        in_channels=1,
        num_classes=10,
        stem_width=16,
        stem_stride=1,
        first_width=16,
        final_expand_width=64,
        feature_width=128,
    )


def _mbv3_small_images() -> SearchSpace:
    """CIFAR and Fashion-MNIST sizes: stem without stride, three elastic stages of up to three blocks."""
    return SearchSpace(
        name="mbv3-small-images",
        resolutions=(20, 24, 28, 32),
        stages=tuple(
            StageSpace(
                width=width,
                depths=(1, 2, 3),
                kernel_sizes=kernel_sizes,
                expand_ratios=(2, 3, 4),
                stride=2,
                activation=activation,
                squeeze_excite=squeeze,
            )
            for width, kernel_sizes, activation, squeeze in (
                (24, (3, 5), "relu", False),
                (48, (3, 5, 7), "hard_swish", True),
                (96, (3, 5), "hard_swish", True),
            )
        ),
        in_channels=3,
        num_classes=10,
        stem_width=16,
        stem_stride=1,
        first_width=16,
        final_expand_width=384,
        feature_width=512,
    )


PRESETS = {
    space.name: space
    for space in (
        ofa_mbv3("ofa-mbv3-w1.0", 1.0),
        ofa_mbv3("ofa-mbv3-w1.2", 1.2),
        _mbv3_small_images(),
        _mbv3_tiny(),
    )
}


def preset(name: str) -> SearchSpace:
    """Return a shipped space by name; an UnknownNameError when there is none."""
    if name not in PRESETS:
        raise UnknownNameError("space", name, PRESETS)
    return PRESETS[name]
