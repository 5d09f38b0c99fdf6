"""The network that is timed beside all others: what it takes tells whether a session was disturbed."""

from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.graphs.build import network_model, random_weights

SPACE = "mbv3-tiny"


def reference_model(batch: int) -> bytes:
    """Return the serialized reference network for so many images."""
    space = preset(SPACE)
    return bytes(network_model(layers(space, space.largest()), random_weights, batch=batch).SerializeToString())
