"""Space files: a search space as YAML, so that one that is no preset can be kept, read and changed."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from ofa_kit import storage
from ofa_kit.arch.choices import Operation
from ofa_kit.arch.layers import macs
from ofa_kit.arch.presets import PRESETS, preset
from ofa_kit.arch.space import SearchSpace
from ofa_kit.config import parse, read_yaml
from ofa_kit.errors import RecipeError, UnknownNameError

SPACE_FILE = "space.yaml"


def find_space(name_or_path: str) -> SearchSpace:
    """Return a preset by name, or the space in a YAML file or in a folder's space.yaml."""
    if name_or_path in PRESETS:
        return preset(name_or_path)
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return read_space(path)
    if (path / SPACE_FILE).exists():
        return read_space(path / SPACE_FILE)
    raise UnknownNameError("space", name_or_path, [*PRESETS, "FILE.yaml"])


def write_space(path: Path, space: SearchSpace) -> None:
    """Write the space; `read_space` returns its equal, fingerprint included."""
    storage.write_text(path, yaml.safe_dump(space_to_dict(space), sort_keys=False, default_flow_style=None, width=120))


def read_space(path: Path) -> SearchSpace:
    """Return the space in a YAML file; a RecipeError when there is none, or it makes no networks."""
    return space_from_dict(read_yaml(path), str(path))


def space_to_dict(space: SearchSpace) -> dict[str, Any]:
    """Return everything that a space is, as YAML's plain values."""
    return {key: _plain(value) for key, value in asdict(space).items()}


def space_from_dict(values: Mapping[str, Any], source: str) -> SearchSpace:
    """Return the space of `space_to_dict`; a RecipeError or UnknownNameError names what is wrong in `source`."""
    space = parse(SearchSpace, values, source)
    stages = tuple(
        replace(
            stage,
            expand_ratios=_whole(stage.expand_ratios),
            blocks=tuple(replace(block, expand_ratios=_whole(block.expand_ratios)) for block in stage.blocks),
        )
        for stage in space.stages
    )
    space = replace(space, stages=stages)
    _check(space, source)
    return space


def _check(space: SearchSpace, source: str) -> None:
    """Raise a RecipeError where a space of the right form makes no networks."""
    if not space.stages or not space.stem:
        raise RecipeError(f"{source}: a space needs at least one stage and one convolution in its stem")
    for index, stage in enumerate(space.stages):
        place = f"{source}: stages.{index}"
        if not stage.widths or not stage.depths or min(stage.depths) < 1:
            raise RecipeError(f"{place}: needs widths and depths, all at least 1")
        if stage.blocks and len(stage.blocks) != stage.max_depth:
            raise RecipeError(f"{place}: {len(stage.blocks)} blocks for a depth of up to {stage.max_depth}")
        if stage.operations and stage.block != "choice":
            raise RecipeError(f"{place}: operations are for `block: choice`, found {stage.block}")
        if (stage.weight_bits or stage.activation_bits) and stage.block != "bottleneck":
            raise RecipeError(f"{place}: bits are for `block: bottleneck`, found {stage.block}")
        if bool(stage.weight_bits) != bool(stage.activation_bits):
            raise RecipeError(f"{place}: give both weight_bits and activation_bits, or neither")
    for gene in space.genes:
        name = f"{source}: {gene.kind} choices of stage {gene.stage}"
        least = 0 if gene.kind in ("stem", "operation") else 1e-6
        if not gene.choices or min(gene.choices) < least:
            raise RecipeError(f"{name}: expected positive numbers, at least one, found {list(gene.choices)}")
        if gene.kind == "kernel_size" and any(k % 2 == 0 for k in gene.choices):
            raise RecipeError(f"{name}: expected odd numbers, found {list(gene.choices)}")
    if macs(space, space.smallest()) < 1 or space.num_classes < 1:
        raise RecipeError(f"{source}: its smallest network computes nothing; widths and num_classes must be positive")


def _whole(ratios: tuple[float, ...]) -> tuple[float, ...]:
    """Return whole numbers as int: 3 and 3.0 would be two fingerprints of one space."""
    return tuple(int(ratio) if float(ratio).is_integer() else ratio for ratio in ratios)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Operation):
        return int(value)
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
