"""MacroArc: a whole network of ENAS, each layer an operation and the earlier outputs that are added to its own.

Output 0 is the stem's, output i that of layer i - 1. A layer always reads the output before it; its skip bits say which
of the outputs before that one join what it computes. The text form is `fixed_arc` of the authors' scripts: a row for
each layer, its operation and then its bits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_kit.errors import OfaKitError, UnknownNameError, WeightsError

OPERATIONS = ("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")
"""The operations of the macro search, by number."""
ONLY_NUMBERS = re.compile(r"[\s\d\[\],-]+")


@dataclass(frozen=True)
class MacroLayer:
    """An operation, and which earlier outputs are added."""

    operation: str
    skips: tuple[int, ...] = ()


@dataclass(frozen=True)
class MacroArc:
    """Layers in order."""

    layers: tuple[MacroLayer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise WeightsError("a macro arc needs at least one layer")
        for number, layer in enumerate(self.layers):
            if layer.operation not in OPERATIONS:
                raise UnknownNameError("operation of a macro arc", layer.operation, OPERATIONS)
            if list(layer.skips) != sorted(set(layer.skips) & set(range(number))):
                raise WeightsError(
                    f"layer {number} of a macro arc adds outputs {list(layer.skips)}; it can add any of the {number} "
                    "before the one that it reads, in order"
                )

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> "MacroArc":
        """Return the arc of all rows' numbers, one after the other."""
        count = rows_of(len(numbers))
        layers = []
        for number in range(count):
            operation, *bits = numbers[number * (number + 1) // 2 :][: number + 1]
            if not 0 <= operation < len(OPERATIONS):
                known = ", ".join(f"{place} {name}" for place, name in enumerate(OPERATIONS))
                raise WeightsError(f"layer {number} of a macro arc has operation {operation}; ENAS knows {known}")
            if set(bits) - {0, 1}:
                raise WeightsError(f"layer {number} of a macro arc has skip bits {bits}; each is 0 or 1")
            layers.append(MacroLayer(OPERATIONS[operation], tuple(place for place, bit in enumerate(bits) if bit)))
        return cls(tuple(layers))

    @property
    def rows(self) -> list[list[int]]:
        """Return each layer's numbers: its operation and its skip bits."""
        return [
            [OPERATIONS.index(layer.operation), *(int(place in layer.skips) for place in range(number))]
            for number, layer in enumerate(self.layers)
        ]

    @property
    def skip_rate(self) -> float:
        """Return the share of skip bits that are 1; 0 where there are none."""
        bits = [bit for row in self.rows for bit in row[1:]]
        return sum(bits) / len(bits) if bits else 0.0

    def read_after(self, number: int) -> list[int]:
        """Return the outputs up to that of layer `number` that a later layer reads, in order."""
        later = self.layers[number + 1 :]
        added = {place for layer in later for place in layer.skips}
        return [place for place in range(number + 2) if place in added or (later and place == number + 1)]


def read_macro_arc(text: str) -> MacroArc:
    """Return the arc in a text of numbers; brackets, commas and line breaks may stand between them.

    A WeightsError says what is no arc.
    """
    if not ONLY_NUMBERS.fullmatch(text) or not re.search(r"\d", text):
        shown = " ".join(text.split())[:60]
        raise WeightsError(f"'{shown}' is no macro arc of ENAS: give a row for each layer, its operation and skip bits")
    return MacroArc.of_numbers([int(number) for number in re.findall(r"-?\d+", text)])


def write_macro_arc(arc: MacroArc) -> str:
    """Return the text form, a line for each layer."""
    return "\n".join(" ".join(map(str, row)) for row in arc.rows)


def write_on_one_line(arc: MacroArc) -> str:
    """Return the text form with spaces alone: for tables."""
    return " ".join(write_macro_arc(arc).split())


def find_macro_arc(name: str) -> MacroArc:
    """Return the arc that a preset's name, a text or a file means."""
    if name in PRESETS:
        return PRESETS[name]
    if ONLY_NUMBERS.fullmatch(name):
        return read_macro_arc(name)
    if not Path(name).is_file():
        raise UnknownNameError("macro arc, neither a text nor a file:", name, PRESETS)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OfaKitError(f"cannot read the macro arc in '{name}': {error}; give a text file") from error
    return read_macro_arc(text)


def rows_of(numbers: int) -> int:
    """Return how many layers so many numbers describe; a WeightsError where no number of layers does."""
    count = 0
    while count * (count + 1) // 2 < numbers:
        count += 1
    if not numbers or count * (count + 1) // 2 != numbers:
        wanted = f"{count * (count - 1) // 2} or {count * (count + 1) // 2}"
        raise WeightsError(
            f"a macro arc of L layers has L (L + 1) / 2 numbers, found {numbers}; {count - 1} or {count} layers have "
            f"{wanted}"
        )
    return count


# The network that Pham et al. 2018 publish for CIFAR-10 (scripts/cifar10_macro_final.sh of the authors).
PRESETS = {
    "enas-macro": read_macro_arc(
        """
        0
        3 0
        0 1 0
        2 0 0 1
        2 0 0 0 0
        3 1 1 0 1 0
        2 0 0 0 0 0 1
        2 0 1 1 0 1 1 1
        1 0 1 1 1 0 1 0 1
        0 0 0 0 0 0 0 0 0 0
        2 0 0 0 0 0 1 0 0 0 0
        0 1 0 0 1 1 0 0 0 0 1 1
        2 0 1 0 0 0 0 0 1 0 1 1 0
        1 0 0 1 0 0 0 1 1 1 0 1 0 1
        0 1 1 0 1 0 1 0 0 0 0 0 1 0 0
        2 0 0 1 0 0 0 0 0 0 0 1 0 1 0 1
        2 0 1 0 0 0 1 0 0 1 1 1 1 0 0 1 0
        2 0 0 0 0 1 0 1 0 1 0 0 1 0 1 0 0 1
        3 0 1 1 0 1 0 0 0 0 0 1 0 1 0 1 0 0 0
        3 0 1 1 0 0 0 0 0 0 0 0 0 1 1 0 0 0 0 1
        0 1 0 0 1 0 1 1 0 0 0 1 0 0 0 0 0 1 1 0 0
        3 0 1 0 1 1 0 0 1 0 1 1 0 1 1 0 1 0 0 1 0 0
        0 1 0 1 0 1 0 0 0 0 0 0 0 0 1 0 1 0 0 1 0 0 0
        0 1 1 0 0 0 1 1 1 0 1 0 0 0 1 0 1 0 0 1 1 0 0 0
        """
    )
}
