"""ArchConfig: one network of a space, as a frozen value."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ofa_kit.errors import TableError

ARCH_COLUMNS = ("resolution", "stem", "widths", "depths", "kernel_sizes", "expand_ratios", "head")
"""The CSV columns of an architecture, see `ArchConfig.to_row`."""


@dataclass(frozen=True)
class StageConfig:
    """The blocks of one stage; a skipped block has no entry, so equal networks are equal values."""

    width: int
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.kernel_sizes) != len(self.expand_ratios) or not self.kernel_sizes:
            raise ValueError(f"a stage needs one kernel_size and one expand_ratio per block, found {self}")

    @property
    def depth(self) -> int:
        return len(self.kernel_sizes)


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
        values = [self.resolution, [[s.width, s.kernel_sizes, s.expand_ratios] for s in self.stages]]
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
            "kernel_sizes": "|".join(_words(s.kernel_sizes) for s in self.stages),
            "expand_ratios": "|".join(_words(s.expand_ratios) for s in self.stages),
            "head": _words(self.head),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> "ArchConfig":
        """Read the fields of `to_row`; a TableError when they do not describe an architecture."""
        try:
            kernels = [_ints(s) for s in row["kernel_sizes"].split("|")]
            expands = [tuple(_number(e) for e in s.split()) for s in row["expand_ratios"].split("|")]
            stages = tuple(StageConfig(*s) for s in zip(_ints(row["widths"]), kernels, expands, strict=True))
            return cls(int(row["resolution"]), stages, _ints(row.get("stem", "")), _ints(row.get("head", "")))
        except (KeyError, ValueError) as error:
            raise TableError(f"no architecture in the table row {dict(row)}: {error}") from error

    def __str__(self) -> str:
        stages = "  ".join(
            f"w{s.width}:" + "-".join(f"k{k}e{e:g}" for k, e in zip(s.kernel_sizes, s.expand_ratios, strict=True))
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
