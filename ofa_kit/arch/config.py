"""ArchConfig: one network of a space, as a frozen value."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ofa_kit.errors import TableError

ARCH_COLUMNS = ("resolution", "widths", "depths", "kernel_sizes", "expand_ratios")
"""The CSV columns of an architecture, see `ArchConfig.to_row`."""


@dataclass(frozen=True)
class StageConfig:
    """The blocks of one stage; a skipped block has no entry, so equal networks are equal values."""

    width: int
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.kernel_sizes) != len(self.expand_ratios) or not self.kernel_sizes:
            raise ValueError(f"a stage needs one kernel_size and one expand_ratio per block, found {self}")

    @property
    def depth(self) -> int:
        return len(self.kernel_sizes)


@dataclass(frozen=True)
class ArchConfig:
    """Input resolution in pixels and the stages of one subnet."""

    resolution: int
    stages: tuple[StageConfig, ...]

    @cached_property
    def key(self) -> str:
        """12 hex digits that name this architecture in every table."""
        values = [self.resolution, [[s.width, s.kernel_sizes, s.expand_ratios] for s in self.stages]]
        text = json.dumps(values, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_row(self) -> dict[str, str]:
        """Return the CSV fields: stages separated by '|', blocks by spaces."""
        return {
            "resolution": str(self.resolution),
            "widths": " ".join(str(s.width) for s in self.stages),
            "depths": " ".join(str(s.depth) for s in self.stages),
            "kernel_sizes": "|".join(" ".join(map(str, s.kernel_sizes)) for s in self.stages),
            "expand_ratios": "|".join(" ".join(map(str, s.expand_ratios)) for s in self.stages),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> "ArchConfig":
        """Read the fields of `to_row`; a TableError when they do not describe an architecture."""
        try:
            widths = [int(w) for w in row["widths"].split()]
            kernels = [tuple(int(k) for k in s.split()) for s in row["kernel_sizes"].split("|")]
            expands = [tuple(int(e) for e in s.split()) for s in row["expand_ratios"].split("|")]
            stages = tuple(StageConfig(*s) for s in zip(widths, kernels, expands, strict=True))
            return cls(int(row["resolution"]), stages)
        except (KeyError, ValueError) as error:
            raise TableError(f"no architecture in the table row {dict(row)}: {error}") from error

    def to_ofa_dict(self, max_depth: int = 4) -> dict[str, Any]:
        """Return MIT once-for-all's form {ks, e, d, r}; skipped blocks repeat the stage's last choice."""
        kernels: list[int] = []
        expands: list[int] = []
        for stage in self.stages:
            missing = max_depth - stage.depth
            kernels += [*stage.kernel_sizes, *[stage.kernel_sizes[-1]] * missing]
            expands += [*stage.expand_ratios, *[stage.expand_ratios[-1]] * missing]
        return {"ks": kernels, "e": expands, "d": [s.depth for s in self.stages], "r": [self.resolution]}

    @classmethod
    def from_ofa_dict(cls, values: Mapping[str, Any], widths: tuple[int, ...]) -> "ArchConfig":
        """Read {ks, e, d, r} of a space whose stages have the given widths; entries of skipped blocks are ignored."""
        per_stage = len(values["ks"]) // len(values["d"])
        stages = []
        for index, (width, depth) in enumerate(zip(widths, values["d"], strict=True)):
            blocks = slice(index * per_stage, index * per_stage + depth)
            stages.append(StageConfig(width, tuple(values["ks"][blocks]), tuple(values["e"][blocks])))
        resolution = values["r"][0] if isinstance(values["r"], list | tuple) else values["r"]
        return cls(int(resolution), tuple(stages))

    def __str__(self) -> str:
        stages = "  ".join(
            "-".join(f"k{k}e{e}" for k, e in zip(s.kernel_sizes, s.expand_ratios, strict=True)) for s in self.stages
        )
        return f"r{self.resolution}  {stages}"
