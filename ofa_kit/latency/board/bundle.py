"""The kit for a board: ONNX graphs with random weights, a manifest and a runner that needs only onnxruntime there.

The same inputs give the same bytes. Graphs share their weights through one file that holds each distinct tensor once:
the graphs of one space repeat most of theirs.
"""

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import onnx

from ofa_kit import __version__, storage
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.arch.space import SearchSpace
from ofa_kit.arch.space_file import space_to_dict
from ofa_kit.errors import BackendError, OfaKitError
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.graphs.precision import in_precision
from ofa_kit.latency.backends.onnxruntime import PRECISIONS, TENSORRT
from ofa_kit.latency.board.runner.kit import FORMAT, MANIFEST, key_of
from ofa_kit.latency.board.runner.sessions import CPU
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import REFERENCE
from ofa_kit.latency.table import COLUMNS

LATENCY = Path(__file__).parents[1]
RUNNER = {
    "run.py": LATENCY / "board/runner/run.py",
    "latency/__init__.py": LATENCY / "__init__.py",
    "latency/protocol.py": LATENCY / "protocol.py",
    "latency/board/__init__.py": LATENCY / "board/__init__.py",
    **{
        f"latency/board/runner/{name}.py": LATENCY / f"board/runner/{name}.py"
        for name in ("__init__", "main", "kit", "machine", "measuring", "results", "sessions")
    },
}
"""Files of this package that go into the kit as they are, by their names there."""
WEIGHTS = "graphs/weights.bin"
SHARED_FROM_BYTES = 1024
"""Smaller tensors stay in their graphs."""
README = """Measures {subnets} networks and {blocks} blocks of the space '{space}' on the machine it is run on.

    python3 -m zipfile -e KIT.zip kit      # or any other way to unpack it
    python3 kit/run.py                     # needs Linux or macOS, Python 3.8 or newer, numpy and onnxruntime

Run it again after an interruption: it goes on where it stopped. Then carry kit/results (results.csv and
results.json) back and import it with ofa-kit.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the runner goes about it, beside the timing protocol of the device profile."""

    block_runs: int = 30
    """Runs of a merged graph in each of its sessions."""
    chunk: int = 8
    """Subnets timed interleaved in one session; a kill loses at most one unfinished chunk."""
    reference_tolerance: float = 0.05
    """Sessions whose reference network is further off than this share do not count as converged."""


@dataclass(frozen=True)
class Bundle:
    """A kit that was written; `key` names its content."""

    path: Path
    key: str
    subnets: int
    blocks: int
    size_bytes: int


def write_bundle(
    path: Path,
    device: DeviceProfile,
    space: SearchSpace,
    subnets: Sequence[ArchConfig],
    resolutions: Sequence[int],
    plan: Plan | None = None,
) -> Bundle:
    """Write the kit as a zip file: the blocks of the given resolutions, whole subnets, the reference network."""
    _refuse_device(device)
    _refuse_outside(space, subnets, resolutions)
    subnets = list({arch.key: arch for arch in subnets}.values())
    with storage.replacing(path) as temporary:
        with tempfile.TemporaryFile() as weights, zipfile.ZipFile(temporary, "w") as archive:
            writer = _Writer(archive, _WeightFile(weights), device)
            reference = preset("mbv3-tiny")
            net = layers(reference, reference.largest())
            writer.add("reference", REFERENCE, network_model(net, random_weights, batch=device.batch))
            for arch in subnets:
                model = network_model(layers(space, arch), random_weights, batch=device.batch)
                writer.add("subnet", arch.key, model, arch=arch.to_row())
            # Only the CPU's profiler tells kernels apart by the names of their nodes.
            blocks = _blocks_by_resolution(space, resolutions) if device.provider == CPU else {}
            for resolution, named in blocks.items():
                keys = {prefix: layer.key for prefix, layer in named.items()}
                writer.add("blocks", str(resolution), merged_model(named, batch=device.batch), keys=keys)
            count = sum(map(len, blocks.values()))
            readme = README.format(subnets=len(subnets), blocks=count, space=space.name)
            writer.add_file("README.txt", readme.encode())
            key = writer.finish(_described(device, space, plan or Plan()))
        size = temporary.stat().st_size
    return Bundle(path, key, len(subnets), count, size)


def key_of_bundle(path: Path) -> str:
    """Return the key of a kit on disk; an OfaKitError when the file is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return key_of(archive.read(MANIFEST))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise OfaKitError(f"'{path}' is not a kit for a board; write it again") from error


@dataclass
class _Writer:
    """Puts files into the zip and notes them for the manifest."""

    archive: zipfile.ZipFile
    weights: "_WeightFile"
    device: DeviceProfile
    graphs: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, name: str, model: onnx.ModelProto, **facts: object) -> None:
        """Add one fp32 graph in the precision of the device."""
        model = in_precision(model, self.device.precision, "tensorrt" if self.device.provider == TENSORRT else "cpu")
        content = self.weights.share(model)
        file = f"graphs/{name if kind == 'reference' else f'{kind}-{name}'}.onnx"
        self.archive.writestr(_entry(file), content)
        self.graphs.append({"kind": kind, "key": name, "file": file, "sha256": _sha256(content), **facts})

    def add_file(self, name: str, content: bytes) -> None:
        self.archive.writestr(_entry(name), content)
        self.files[name] = _sha256(content)

    def finish(self, facts: Mapping[str, object]) -> str:
        """Add runner, weights and manifest and return the kit's key."""
        for name, source in RUNNER.items():
            self.add_file(name, source.read_bytes())
        self.files[WEIGHTS] = self.weights.finish()
        with self.archive.open(_entry(WEIGHTS), "w", force_zip64=True) as packed:
            shutil.copyfileobj(self.weights.file, packed)
        content = json.dumps({**facts, "files": self.files, "graphs": self.graphs}, indent=1).encode()
        self.archive.writestr(_entry(MANIFEST), content)
        return key_of(content)


class _WeightFile:
    """One file of tensors, each of them once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self._size = 0
        self._places: dict[bytes, int] = {}

    def share(self, model: onnx.ModelProto) -> bytes:
        """Move the larger weights of a model into the file and return the serialized model."""
        for tensor in model.graph.initializer:
            content = tensor.raw_data
            if len(content) < SHARED_FROM_BYTES:
                continue
            digest = hashlib.sha256(content).digest()
            if digest not in self._places:
                self._places[digest] = self._size
                self._size += self.file.write(content)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": Path(WEIGHTS).name, "offset": self._places[digest], "length": len(content)}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
        return bytes(model.SerializeToString(deterministic=True))

    def finish(self) -> str:
        """Return the sha256 of the file, which stands at its start again."""
        self.file.seek(0)
        digest = hashlib.sha256()
        for part in iter(lambda: self.file.read(1 << 20), b""):
            digest.update(part)
        self.file.seek(0)
        return digest.hexdigest()


def _blocks_by_resolution(space: SearchSpace, resolutions: Sequence[int]) -> dict[int, dict[str, Layer]]:
    """Return the blocks of each merged graph by prefix; a block stands in the graph of its lowest resolution."""
    seen: set[str] = set()
    found = {}
    for resolution in sorted(set(resolutions)):
        new = {key: layer for key, layer in distinct_layers(space, resolution).items() if key not in seen}
        seen |= new.keys()
        if new:
            found[resolution] = {f"b{i}": layer for i, layer in enumerate(new.values())}
    return found


def _described(device: DeviceProfile, space: SearchSpace, plan: Plan) -> dict[str, object]:
    return {
        "format": FORMAT,
        "made_by": f"ofa-kit {__version__}",
        "space": {"name": space.name, "fingerprint": space.fingerprint, "definition": space_to_dict(space)},
        "device": asdict(device),
        "plan": asdict(plan),
        "columns": COLUMNS,
    }


def _refuse_device(device: DeviceProfile) -> None:
    """Raise a BackendError for a device profile that a kit's runner cannot follow."""
    if device.backend != "onnxruntime" or device.launch != "eager":
        raise BackendError(
            f"kits run with onnxruntime and eager launch, device '{device.name}' asks for {device.backend} and "
            f"{device.launch}; use a device profile with these or `ofa-kit profile` on the device itself"
        )
    precisions = PRECISIONS.get(device.provider, ("fp32",))
    if device.precision not in precisions:
        known = ", ".join(precisions)
        raise BackendError(f"device '{device.name}': {device.provider} runs {known}, found {device.precision}")


def _refuse_outside(space: SearchSpace, subnets: Sequence[ArchConfig], resolutions: Sequence[int]) -> None:
    for resolution in resolutions:
        if resolution not in space.resolutions:
            known = ", ".join(map(str, space.resolutions))
            raise OfaKitError(f"'{space.name}' has no resolution {resolution}; it has {known}")
    for arch in subnets:
        if not space.contains(arch):
            raise OfaKitError(f"subnet {arch.key} is not in the space '{space.name}'; choose subnets of that space")
        if arch.resolution not in resolutions:
            raise OfaKitError(f"subnet {arch.key} has resolution {arch.resolution}; add it to the kit's resolutions")


def _entry(name: str) -> zipfile.ZipInfo:
    """Return a zip entry without a date of its own."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
