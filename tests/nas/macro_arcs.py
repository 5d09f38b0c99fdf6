"""What tests of macro arcs share: an arc of all operations, and parameters counted by hand."""

import itertools

from ofa_kit.nas.enas.macro_arc import OPERATIONS, MacroArc, MacroLayer


def flat(arc):
    return list(itertools.chain.from_iterable(arc.rows))


def expected_params(arc, channels, classes=10):
    """Count by hand: what a layer has, and the reductions of what is read later."""
    total, width = 27 * channels + 2 * channels, channels
    third = len(arc.layers) // 3
    for number, layer in enumerate(arc.layers):
        k = int(layer.operation[-1]) ** 2
        kind = layer.operation[:-4]
        total += width**2 + 2 * width
        total += {"conv": k * width**2 + 2 * width, "sep_conv": k * width + width**2 + 2 * width}.get(kind, 0)
        total += ((len(layer.skips) + 1) * width**2 + 2 * width) if number else 0
        if number in (third - 1, 2 * third - 1):
            read = {number + 1} | {p for later in arc.layers[number + 1 :] for p in later.skips if p <= number + 1}
            total += len(read) * (width * 2 * width + 4 * width)
            width *= 2
    return total + width * classes


def all_operations(skips=True):
    layers = [MacroLayer(name, tuple(range(number)) if skips else ()) for number, name in enumerate(OPERATIONS)]
    return MacroArc(tuple(layers))
