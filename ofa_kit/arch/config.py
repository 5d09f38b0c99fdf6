"""ArchConfig: one network of a space, as a frozen value."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ofa_kit.arch.choices import Operation
from ofa_kit.errors import TableError

ARCH_COLUMNS = ("resolution", "stem", "widths", "depths", "kernel_sizes", "expand_ratios", "head")
"""The CSV columns of an architecture, see `ArchConfig.to_row`."""
_WORD = re.compile(rf"(?:({'|'.join(o.word for o in Operation)})|(\d+))(?:w(\d+)a(\d+))?")


@dataclass(frozen=True)
class StageConfig:
    """The blocks of one stage; a skipped block has no entry, so equal networks are equal values."""

    width: int
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    operations: tuple[Operation, ...] = ()
    """What each choice block is; () in stages of one kind of block."""
    weight_bits: tuple[int, ...] = ()
    """Of each block; () where nothing is quantised."""
    activation_bits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.kernel_sizes) != len(self.expand_ratios) or not self.kernel_sizes:
            raise ValueError(f"a stage needs one kernel_size and one expand_ratio per block, found {self}")
        if any(len(found) not in (0, self.depth) for found in (self.operations, self.weight_bits)):
            raise ValueError(f"a stage needs operations and bits for each block or for none, found {self}")
        if len(self.weight_bits) != len(self.activation_bits):
            raise ValueError(f"a stage needs bits of both weights and activations, found {self}")

    @property
    def depth(self) -> int:
        return len(self.kernel_sizes)

    @property
    def values(self) -> list[object]:
        """What tells it from other stages, in the order that keys are made of."""
        values: list[object] = [self.width, self.kernel_sizes, self.expand_ratios]
        return values + [found for found in (self.operations, self.weight_bits, self.activation_bits) if found]

    @property
    def words(self) -> list[str]:
        """Return what each block is besides its expand_ratio: '3', 'xception', or '3w2a4' for bits."""
        words = [operation.word for operation in self.operations] or [str(k) for k in self.kernel_sizes]
        bits = [f"w{w}a{a}" for w, a in zip(self.weight_bits, self.activation_bits, strict=True)]
        return [word + end for word, end in zip(words, bits or [""] * self.depth, strict=True)]

    @classmethod
    def from_words(cls, width: int, words: Sequence[str], expand_ratios: tuple[float, ...]) -> "StageConfig":
        """Read the words of `words`; a ValueError when they are none."""
        found = [_WORD.fullmatch(word) for word in words]
        if not all(found):
            raise ValueError(f"no blocks: {' '.join(words)}")
        parts = [match.groups() for match in found if match]
        operations = tuple(Operation[name.upper()] for name, _, _, _ in parts if name)
        kernels = [int(number) for _, number, _, _ in parts if number] or [o.kernel_size for o in operations]
        weight_bits, activation_bits = (tuple(int(part[i]) for part in parts if part[i]) for i in (2, 3))
        return cls(width, tuple(kernels), expand_ratios, operations, weight_bits, activation_bits)


@dataclass(frozen=True)
class ArchConfig:
    """Input resolution in pixels, the stages of one subnet, and what is chosen before and after them."""

    resolution: int
    stages: tuple[StageConfig, ...]
    stem: tuple[int, ...] = ()
    """The stem's choices in the order of the network: widths, and 1 or 0 for a convolution that may be left out."""
    head: tuple[int, ...] = ()
    """The head's chosen widths; () where nothing is elastic there."""

    @cached_property
    def key(self) -> str:
        """12 hex digits that name this architecture in every table."""
        values = [self.resolution, [s.values for s in self.stages]]
        if self.stem or self.head:
            values += [self.stem, self.head]
        text = json.dumps(values, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_row(self) -> dict[str, str]:
        """Return the CSV fields: stages separated by '|', blocks by spaces."""
        return {
            "resolution": str(self.resolution),
            "stem": _words(self.stem),
            "widths": _words(s.width for s in self.stages),
            "depths": _words(s.depth for s in self.stages),
            "kernel_sizes": "|".join(" ".join(s.words) for s in self.stages),
            "expand_ratios": "|".join(_words(s.expand_ratios) for s in self.stages),
            "head": _words(self.head),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> "ArchConfig":
        """Read the fields of `to_row`; a TableError when they do not describe an architecture."""
        try:
            blocks = [s.split() for s in row["kernel_sizes"].split("|")]
            expands = [tuple(_number(e) for e in s.split()) for s in row["expand_ratios"].split("|")]
            parts = zip(_ints(row["widths"]), blocks, expands, strict=True)
            stages = tuple(StageConfig.from_words(*part) for part in parts)
            return cls(int(row["resolution"]), stages, _ints(row.get("stem", "")), _ints(row.get("head", "")))
        except (KeyError, ValueError) as error:
            raise TableError(f"no architecture in the table row {dict(row)}: {error}") from error

    def __str__(self) -> str:
        stages = "  ".join(
            f"w{s.width}:"
            + "-".join(f"{'' if s.operations else 'k'}{w}e{e:g}" for w, e in zip(s.words, s.expand_ratios, strict=True))
            for s in self.stages
        )
        ends = [
            f"{name}{_words(values).replace(' ', '-')}" for name, values in (("stem", self.stem), ("head", self.head))
        ]
        shown = [text for text, values in zip(ends, (self.stem, self.head), strict=True) if values]
        return "  ".join([f"r{self.resolution}", *shown[: bool(self.stem)], stages, *shown[bool(self.stem) :]])


def _words(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


def _number(text: str) -> float:
    """Return an int where the text is one: 3 and 3.0 would be two keys for one network."""
    try:
        return int(text)
    except ValueError:
        return float(text)
