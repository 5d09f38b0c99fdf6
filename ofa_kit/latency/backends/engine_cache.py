"""Built engines on disk: what an engine depends on, and files that are checked before anybody trusts them.

A cache never stops a run. An entry that is damaged, or that another version of the runtime or of the driver built,
is reported in one line and built anew; it takes the old one's place, so that a folder does not fill with engines
that nothing here can load.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx

from ofa_kit import storage
from ofa_kit.errors import OfaKitError

MAGIC = b"ofa-kit engine 1\n"
DAMAGED = "engine cache: '{path}' is damaged; it is made anew"
OTHER = "engine cache: entries in '{folder}' were made by {found}, this is {asked}; they are made anew"
UNWRITTEN = "engine cache: {why} (XDG_CACHE_HOME sets the folder of caches); engines are built again next time"


@dataclass(frozen=True, kw_only=True)
class Key:
    """Everything that an engine depends on; shapes are part of the model's digest."""

    kind: str
    """engine, or timing: the times of kernels that a builder may use again."""
    target: str
    """GPU and compute capability."""
    built_by: str
    """Versions of the runtime and, where it takes part in building, of the driver."""
    model: str = ""
    """What `model_digest` returns."""
    precision: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    """Name of the runtime and options of its builder."""

    @property
    def name(self) -> str:
        """File name: a hash of everything but the versions, so that a newer entry takes an older one's place."""
        facts = {key: value for key, value in asdict(self).items() if key != "built_by"}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24] + f".{self.kind}"


class EngineCache:
    """A folder of engines; `on_warning` gets each line that a user should see, once."""

    def __init__(self, folder: Path | None = None, on_warning: Callable[[str], None] | None = None) -> None:
        self.folder = folder or default_folder()
        self._on_warning = on_warning or logging.getLogger("ofa_kit").warning
        self._said: set[str] = set()

    def load(self, key: Key) -> bytes | None:
        """Return the stored bytes, None when there are none or the entry cannot be used here."""
        path = self.folder / key.name
        try:
            content = path.read_bytes()
        except OSError:
            return None
        found, payload = _parsed(content)
        if found is None or found | {"built_by": key.built_by} != _facts(key):
            self._say(DAMAGED.format(path=path))
            return None
        if found.get("built_by") != key.built_by:
            self._say(OTHER.format(folder=self.folder, found=found.get("built_by"), asked=key.built_by))
            return None
        return payload

    def store(self, key: Key, payload: bytes) -> None:
        """Keep bytes under a key, in one step; a folder that cannot be written costs a warning."""
        path = self.folder / key.name
        header = {"key": _facts(key), "sha256": hashlib.sha256(payload).hexdigest()}
        try:
            with storage.replacing(path) as temporary:
                temporary.write_bytes(MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + payload)
        except (OSError, OfaKitError) as error:
            self._say(UNWRITTEN.format(why=error))

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._on_warning(line)


def default_folder() -> Path:
    """Return the folder of engines in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ofa-kit" / "engines"


def model_digest(model: onnx.ModelProto, *, keep_names: bool) -> str:
    """Return a hash of what a model computes: graph, shapes and weights, without notes, and names unless kept.

    Names are kept for engines whose layers are told apart by them.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for noted in (bare, *bare.graph.node, *bare.graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    for name in ("producer_name", "producer_version", "domain", "model_version"):
        bare.ClearField(name)
    for name in ("name", "doc_string", "metadata_props", "value_info"):
        bare.graph.ClearField(name)
    nested = any(attribute.HasField("g") for node in bare.graph.node for attribute in node.attribute)
    if not keep_names and not nested:
        _rename(bare.graph)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _rename(graph: onnx.GraphProto) -> None:
    """Replace the names of tensors by numbers in order of appearance, and those of nodes by nothing."""
    new: dict[str, str] = {"": ""}
    for value in (*graph.input, *graph.initializer, *graph.output):
        value.name = new.setdefault(value.name, f"t{len(new)}")
    for node in graph.node:
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [new.setdefault(name, f"t{len(new)}") for name in names]


def _facts(key: Key) -> dict[str, object]:
    """Return a key as it reads from JSON."""
    found: dict[str, object] = json.loads(json.dumps(asdict(key)))
    return found


def _parsed(content: bytes) -> tuple[dict[str, object] | None, bytes]:
    """Return key and payload of an entry; None instead of the key when the file is damaged."""
    if not content.startswith(MAGIC):
        return None, b""
    line, _, payload = content[len(MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        key, digest = header["key"], header["sha256"]
    except (ValueError, KeyError, TypeError):
        return None, b""
    if digest != hashlib.sha256(payload).hexdigest() or not isinstance(key, dict):
        return None, b""
    return key, payload
