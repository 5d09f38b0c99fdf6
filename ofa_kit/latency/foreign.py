"""Foreign tables: MIT once-for-all's block latency tables of a device as one of ours, exact to the last digit.

MIT's latency of a network is the sum of its entries in the table of its resolution. The same block was timed anew for
each table and differs by up to 2 %, so every row holds in networks of one resolution only (`key_at`).
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.arch.features import distinct_layers, key_at
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.space import SearchSpace
from ofa_kit.config import read_yaml
from ofa_kit.errors import TableError, some_of
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.table import LatencyTable

STEM = re.compile(r"Conv-input:(\d+)x\1x\d+-output:")


def import_mit_tables(files: Sequence[Path], tables: Path, device_name: str, space: SearchSpace) -> LatencyTable:
    """Add MIT's tables, one file a resolution, to the table of an imported device; a TableError says what is missing.

    A later import may bring more resolutions. Nothing is written unless every file fits the space.
    """
    if not files:
        raise TableError("no table file given; give MIT's files, such as 224_lookup_table.yaml, one for a resolution")
    found = [_MitTable.read(path) for path in files]
    times_ms: dict[str, float] = {}
    for one in found:
        new = one.times_ms(space)
        if new.keys() & times_ms.keys():
            raise TableError(f"'{one.path}' is a second table of resolution {one.resolution}; give one file for each")
        times_ms |= new
    provenance: dict[str, Any] = {"measured_elsewhere": True, "imported_from": {}}
    table = LatencyTable.create(tables, imported_profile(device_name), space, provenance)
    _refuse_others(table, times_ms)
    missing = [(key, ms) for key, ms in times_ms.items() if key not in table.blocks]
    table.add_blocks(missing, runs=min(one.fewest_runs for one in found), load=math.nan, measured_at="")
    hashes = {one.path.name: hashlib.sha256(one.path.read_bytes()).hexdigest() for one in found}
    table.provenance["imported_from"].update(hashes)
    storage.write_text(table.path.with_suffix(".json"), json.dumps(table.provenance, indent=2) + "\n")
    return table


def imported_profile(device_name: str) -> DeviceProfile:
    """Return the profile that stands for a device of an imported table."""
    return DeviceProfile(name=device_name, backend="imported")


@dataclass(frozen=True)
class _MitTable:
    """One file: mean milliseconds by MIT's name of a layer, for networks of one resolution."""

    path: Path
    resolution: int
    entries: Mapping[str, float]
    fewest_runs: int

    @classmethod
    def read(cls, path: Path) -> "_MitTable":
        """Read `NAME: {mean: MILLISECONDS, count: RUNS}` entries; the first convolution's input is the resolution."""
        values = read_yaml(path)
        damaged = [str(name) for name, entry in values.items() if not _is_time(entry)]
        if damaged:
            raise TableError(
                f"'{path}' needs a `mean` above 0 ms (and a whole `count`, if any) in every entry, not so in "
                f"{some_of(damaged, 3)}; get the file again"
            )
        stems = [match for match in map(STEM.match, map(str, values)) if match]
        if len(stems) != 1:
            raise TableError(
                f"'{path}' is no table of MIT's: expected one entry like 'Conv-input:224x224x3-output:...', "
                f"found {len(stems)}"
            )
        means = {name: float(entry["mean"]) for name, entry in values.items()}
        return cls(path, int(stems[0][1]), means, min(entry.get("count", 0) for entry in values.values()))

    def times_ms(self, space: SearchSpace) -> dict[str, float]:
        """Return the time of every layer that the space has at this resolution, by `key_at`."""
        if self.resolution not in space.resolutions:
            raise TableError(f"'{self.path}' is for resolution {self.resolution}, which '{space.name}' lacks")
        net = distinct_layers(space, self.resolution).values()
        names = {key_at(layer, self.resolution): _names(layer) for layer in net}
        wanted = {name for parts in names.values() for name in parts}
        missing, unknown = sorted(wanted - self.entries.keys()), sorted(self.entries.keys() - wanted)
        if missing or unknown:
            lacks = f"lacks {len(missing)} entries that '{space.name}' needs: {some_of(missing, 3)}"
            other = f"has {len(unknown)} entries that '{space.name}' does not know: {some_of(unknown, 3)}"
            both = "; ".join([lacks] * bool(missing) + [other] * bool(unknown))
            raise TableError(f"'{self.path}' {both}; is the table of another space?")
        return {key: sum(self.entries[name] for name in parts) for key, parts in names.items()}


def _is_time(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("count", 0), int):
        return False
    mean = entry.get("mean")
    return isinstance(mean, int | float) and 0 < mean < math.inf


def _names(layer: Layer) -> tuple[str, ...]:
    """Return MIT's names of the entries that make up a layer."""
    inside = _shape(layer.input_size, layer.in_channels)
    ends = f"input:{inside}-output:{_shape(layer.output_size, layer.out_channels)}"
    if layer.op == "conv":
        return (f"{'Conv' if layer.kernel_size > 1 else 'Conv_1'}-{ends}",)
    if layer.op == "inverted_residual":
        block = f"expand:{layer.hidden_channels}-kernel:{layer.kernel_size}-stride:{layer.stride}"
        switches = (
            f"idskip:{layer.shortcut:d}-se:{layer.squeeze_channels > 0:d}-hs:{layer.activation == 'hard_swish':d}"
        )
        return (f"expanded_conv-{ends}-{block}-{switches}",)
    pooled = _shape(1, layer.in_channels)
    if layer.op == "pooled_conv":
        mixed = _shape(1, layer.out_channels)
        return f"AvgPool2D-input:{inside}-output:{pooled}", f"Conv_2-input:{pooled}-output:{mixed}"
    if layer.op == "linear":
        return (f"Logits-input:{inside}-output:{layer.out_channels}",)
    return (f"{layer.op}-{ends}",)


def _shape(size: int, channels: int) -> str:
    return f"{size}x{size}x{channels}"


def _refuse_others(table: LatencyTable, times_ms: Mapping[str, float]) -> None:
    """Raise a TableError where the table has another time for a row that is to come."""
    others = [key for key, ms in times_ms.items() if table.blocks.get(key, ms) != ms]
    if others:
        raise TableError(
            f"'{table.path}' has other times for {some_of(others, 3)}; delete it or choose another device name"
        )
