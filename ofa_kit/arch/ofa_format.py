"""MIT once-for-all's dictionaries: {ks, e, d, r} of inverted residuals, {d, e, w, r} of ResNets."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ofa_kit.arch.config import ArchConfig, StageConfig
from ofa_kit.arch.space import SearchSpace


def to_ofa_dict(space: SearchSpace, arch: ArchConfig) -> dict[str, Any]:
    """Return MIT's form of an architecture; entries of skipped blocks repeat the stage's last choice."""
    kernels: list[int] = []
    expands: list[float] = []
    for stage, choices in zip(arch.stages, space.stages, strict=True):
        missing = choices.max_depth - stage.depth
        kernels += [*stage.kernel_sizes, *[stage.kernel_sizes[-1]] * missing]
        expands += [*stage.expand_ratios, *[stage.expand_ratios[-1]] * missing]
    depths = [stage.depth for stage in arch.stages]
    if not _is_resnet(space):
        return {"ks": kernels, "e": expands, "d": depths, "r": [arch.resolution]}
    bases = [min(stage.depths) for stage in space.stages]
    most = max(max(stage.depths) - min(stage.depths) for stage in space.stages)
    middle, present, outside = arch.stem
    widths = [space.stem[0].widths.index(middle), space.stem[2].widths.index(outside)]
    widths += [s.widths.index(stage.width) for stage, s in zip(arch.stages, space.stages, strict=True)]
    extra = [depth - base for depth, base in zip(depths, bases, strict=True)]
    return {"d": [most if present else 0, *extra], "e": expands, "w": widths, "r": [arch.resolution]}


def from_ofa_dict(space: SearchSpace, values: Mapping[str, Any]) -> ArchConfig:
    """Read MIT's form of an architecture of `space`; a ValueError when it is none.

    Entries of skipped blocks are ignored.
    """
    wanted = ("d", "e", "w", "r") if _is_resnet(space) else ("ks", "d", "e", "r")
    absent = [key for key in wanted if key not in values]
    if absent:
        raise ValueError(f"an architecture of '{space.name}' needs {', '.join(wanted)}; missing: {', '.join(absent)}")
    resolution = values["r"][0] if isinstance(values["r"], list | tuple) else values["r"]
    ends = list(accumulate(stage.max_depth for stage in space.stages))
    if len(values["e"]) != ends[-1]:
        raise ValueError(f"'e' needs {ends[-1]} entries for the space '{space.name}', found {len(values['e'])}")
    kernels: Sequence[int] = values.get("ks") or [space.stages[0].kernel_sizes[0]] * ends[-1]
    depths, widths = values["d"], [stage.widths[0] for stage in space.stages]
    stem: tuple[int, ...] = ()
    if _is_resnet(space):
        most = max(max(stage.depths) - min(stage.depths) for stage in space.stages)
        chosen = values["w"]
        stem = (space.stem[0].widths[chosen[0]], int(depths[0] == most), space.stem[2].widths[chosen[1]])
        widths = [stage.widths[index] for stage, index in zip(space.stages, chosen[2:], strict=True)]
        depths = [min(stage.depths) + extra for stage, extra in zip(space.stages, depths[1:], strict=True)]
    stages = []
    for stage, width, depth, end in zip(space.stages, widths, depths, ends, strict=True):
        blocks = slice(end - stage.max_depth, end - stage.max_depth + min(depth, stage.max_depth))
        stages.append(StageConfig(width, tuple(kernels[blocks]), tuple(values["e"][blocks])))
    arch = ArchConfig(int(resolution), tuple(stages), stem)
    space.encode(arch)
    return arch


def _is_resnet(space: SearchSpace) -> bool:
    return space.stages[0].block == "bottleneck"
