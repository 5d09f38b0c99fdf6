"""The spaces that come with the package, by name."""

from ofa_kit.arch.families.bignas import attentive_nas, bignas_small_images
from ofa_kit.arch.families.mobilenet import mbv3_small_images, mbv3_tiny, ofa_mbv3, ofa_proxyless
from ofa_kit.arch.families.resnet import (
    ofa_resnet50d,
    resnet_small_images,
    spos_bits_resnet50,
    spos_bits_small_images,
)
from ofa_kit.arch.families.shuffle import CHANNEL_SCALES, spos_shufflenet, spos_small_images
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import UnknownNameError

PRESETS = {
    space.name: space
    for space in (
        ofa_mbv3("ofa-mbv3-w1.0", 1.0),
        ofa_mbv3("ofa-mbv3-w1.2", 1.2),
        ofa_proxyless("ofa-proxyless-w1.3", 1.3),
        ofa_resnet50d("ofa-resnet50d"),
        attentive_nas("attentive-nas"),
        mbv3_small_images(),
        resnet_small_images(),
        bignas_small_images(),
        mbv3_tiny(),
        spos_shufflenet("spos-shufflenet"),
        spos_shufflenet("spos-shufflenet-channels", scales=CHANNEL_SCALES),
        spos_small_images("spos-small-images"),
        spos_small_images("spos-small-images-channels", scales=CHANNEL_SCALES),
        spos_bits_resnet50("spos-bits-resnet50"),
        spos_bits_small_images("spos-bits-small-images"),
    )
}


def preset(name: str) -> SearchSpace:
    """Return a shipped space by name; an UnknownNameError when there is none."""
    if name not in PRESETS:
        raise UnknownNameError("space", name, PRESETS)
    return PRESETS[name]
