"""SPOS's text form of an architecture: the number of each block's operation, then of each block's channel scale."""

import re
from collections.abc import Sequence
from itertools import islice
from typing import TypeVar

from ofa_kit.arch.choices import Operation
from ofa_kit.arch.config import ArchConfig, StageConfig
from ofa_kit.arch.families.shuffle import CHANNEL_SCALES
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import OfaKitError

T = TypeVar("T")
SEPARATORS = re.compile(r"[\s,;()\[\]]+")
UNSCALED = CHANNEL_SCALES.index(1)


def from_spos_text(space: SearchSpace, text: str) -> ArchConfig:
    """Return the architecture of a text such as '[0, 0, 3, ...]': operations 0..3, then channel scales 0..7 if any.

    Without scales every block has the published width (scale 4: 1.0). It gets the largest resolution of the space; an
    OfaKitError says what does not fit.
    """
    blocks = sum(stage.max_depth for stage in space.stages)
    words = [word for word in SEPARATORS.split(text) if word]
    if not all(word.isdecimal() for word in words) or len(words) not in (blocks, 2 * blocks):
        raise OfaKitError(
            f"'{text}' is no architecture of '{space.name}': expected {blocks} operations, then {blocks} channel "
            f"scales or nothing, all whole numbers; found {len(words)} words"
        )
    operations = [_numbered("operation", int(word), tuple(Operation)) for word in words[:blocks]]
    scales = [_numbered("channel scale", int(word), CHANNEL_SCALES) for word in words[blocks:]] or [1] * blocks
    arch = ArchConfig(max(space.resolutions), tuple(_stages(space, operations, scales)))
    if not space.contains(arch):
        raise OfaKitError(f"'{text}' is not in the space '{space.name}': it has no such choices")
    return arch


def to_spos_text(arch: ArchConfig) -> str:
    """Return the numbers of `from_spos_text`, those of the scales only where one is not 1.0."""
    operations = [operation for stage in arch.stages for operation in stage.operations]
    scales = [CHANNEL_SCALES.index(scale) for stage in arch.stages for scale in stage.expand_ratios]
    if len(operations) != len(scales):
        raise OfaKitError(f"{arch} has no choice blocks, so no SPOS text")
    numbers = [int(operation) for operation in operations]
    return " ".join(map(str, numbers if set(scales) == {UNSCALED} else numbers + scales))


def _stages(space: SearchSpace, operations: Sequence[Operation], scales: Sequence[float]) -> list[StageConfig]:
    blocks, stages = iter(zip(operations, scales, strict=True)), []
    for stage in space.stages:
        chosen, scaled = zip(*islice(blocks, stage.max_depth), strict=True)
        stages.append(StageConfig(stage.widths[0], tuple(o.kernel_size for o in chosen), scaled, chosen))
    return stages


def _numbered(kind: str, number: int, choices: Sequence[T]) -> T:
    if number >= len(choices):
        raise OfaKitError(f"no {kind} {number}; they are 0..{len(choices) - 1}")
    return choices[number]
