"""Genes: the single choices of a space, in the order in which a genome holds them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.choices import ConvSpace, HeadSpace, StageSpace
from ofa_kit.arch.config import ArchConfig

Genomes = NDArray[np.int64]
SKIPPED = -1
BlockKind = Literal["kernel_size", "operation", "expand_ratio", "weight_bits", "activation_bits"]
Kind = Literal["resolution", "stem", "depth", "width", "head"] | BlockKind


@dataclass(frozen=True)
class Gene:
    """One choice: what it is of, where, and from what."""

    kind: Kind
    choices: tuple[Any, ...]
    stage: int = 0
    block: int = 0
    """Block of the stage; for stem and head the position among their choices."""
    shared: bool = False

    @cached_property
    def block_of(self) -> int | None:
        """Return the block without which this gene means nothing."""
        return self.block if self.kind in get_args(BlockKind) and not self.shared else None

    def skipped_in(self, arch: ArchConfig) -> bool:
        """Whether `arch` lacks the block of this gene."""
        return self.block_of is not None and self.block_of >= arch.stages[self.stage].depth

    def value_in(self, arch: ArchConfig) -> Any:
        """Return what `arch` chose; an IndexError when it has no such place."""
        if self.kind == "resolution":
            return arch.resolution
        if self.kind in ("stem", "head"):
            return getattr(arch, self.kind)[self.block]
        stage = arch.stages[self.stage]
        if self.kind in ("depth", "width"):
            return getattr(stage, self.kind)
        return getattr(stage, self.kind if self.kind.endswith("s") else f"{self.kind}s")[self.block]

    @property
    def ends(self) -> tuple[Any, Any]:
        """Return the choices of fewest and of most multiply-adds, with the other genes at the same end."""
        ordered = self.choices if self.kind == "operation" else sorted(self.choices)
        return ordered[0], ordered[-1]


def genes_of(
    resolutions: tuple[int, ...], stem: Sequence[ConvSpace], stages: Sequence[StageSpace], head: HeadSpace
) -> tuple[Gene, ...]:
    """Return the genes of a space; only the resolution, depths and blocks have one where there is nothing to choose."""
    stem_choices = [conv.presence if conv.residual else conv.widths for conv in stem if conv.residual or conv.elastic]
    return (
        Gene("resolution", resolutions),
        *_elastic("stem", stem_choices),
        *(gene for index, stage in enumerate(stages) for gene in _stage_genes(index, stage)),
        *_elastic("head", [head.feature_widths] if head.elastic else []),
    )


def _elastic(kind: Literal["stem", "head"], choices: Sequence[tuple[int, ...]]) -> Iterator[Gene]:
    for position, values in enumerate(choices):
        yield Gene(kind, values, 0, position)


def _stage_genes(index: int, stage: StageSpace) -> Iterator[Gene]:
    yield Gene("depth", stage.depths, index)
    if len(stage.widths) > 1:
        yield Gene("width", stage.widths, index)
    for block in range(1 if stage.shared else stage.max_depth):
        for kind, choices in stage.choices_of(block).items():
            yield Gene(cast(BlockKind, kind), tuple(choices), index, block, stage.shared)
