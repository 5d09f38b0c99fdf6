"""TensorRT-RTX without a GPU: real engines for compute capability 8.9, their cache, and what a user is told."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.errors import BackendError, UnknownNameError
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.graphs.precision import in_precision
from ofa_kit.latency.backends.backend import Backend, ProfilingBackend
from ofa_kit.latency.backends.engine_cache import EngineCache, default_folder, model_digest
from ofa_kit.latency.backends.tensorrt import TensorRtRtxBackend
from ofa_kit.latency.backends.tensorrt_build import BuildSettings, build_plan, quiet_logger
from ofa_kit.latency.backends.tensorrt_run import node_names
from ofa_kit.latency.board.runner.sessions import block_times_ms
from ofa_kit.latency.device import DeviceProfile, Precision

trt = pytest.importorskip("tensorrt_rtx", reason="package tensorrt-rtx-cu13 is not installed")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
SPACES = ("mbv3-tiny", "resnet-small-images", "bignas-small-images")
TYPES = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}
"""How TensorRT names the type that convolutions read."""


def subnet(space_name: str, seed: int = 0, *, note: str = "", prefix: str = "") -> bytes:
    space = preset(space_name)
    net = layers(space, space.sample(np.random.default_rng(seed)))
    model = network_model(net, random_weights, batch=1, metadata={"note": note})
    for node in model.graph.node:
        node.name = prefix + node.name
    return model.SerializeToString()


class Rtx:
    """A backend for compute capability 8.9 with a cache of its own, and the warnings it gave."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.warnings: list[str] = []
        profile = DeviceProfile(name="rtx", backend="tensorrt-rtx", **{"compute_capability": "8.9"} | fields)
        self.backend = TensorRtRtxBackend(profile, cache_folder=folder, on_warning=self.warnings.append)


class TellingLogger(trt.ILogger):
    """Keeps what the builder says of the layers of a detailed engine: (name, metadata, the whole line)."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []
        self.layers: list[tuple[str, str, str]] = []

    def log(self, severity: Any, message: str) -> None:
        for line in re.findall(r"^Name: .*LayerType: .*$", message, re.MULTILINE):
            name, metadata = re.match(r"Name: (.*?), LayerType: ", line), re.search(r"Metadata: (.*)$", line)
            self.layers.append((name[1] if name else "", metadata[1] if metadata else "", line))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("space_name", SPACES)
def test_an_engine_is_built_once_and_then_read(space_name: str, precision: Precision, tmp_path: Path) -> None:
    model = subnet(space_name)
    first = Rtx(tmp_path, precision=precision).backend.build(model)
    second = Rtx(tmp_path, precision=precision).backend.build(model)
    assert not first.from_cache
    assert second.from_cache
    assert second.plan == first.plan
    assert len(first.plan) > 1000


@pytest.mark.parametrize("precision", PRECISIONS)
def test_convolutions_run_in_the_precision_that_was_asked(precision: Precision) -> None:
    model = in_precision(onnx.load_from_string(subnet("resnet-small-images")), precision, "tensorrt")
    logger = TellingLogger()
    settings = BuildSettings(compute_capability="8.9", detailed=True)
    build_plan(trt, logger, model.SerializeToString(), settings)
    read = [
        set(re.findall(r"Datatype: (\w+)", line.split("Outputs: ")[0]))
        for _, metadata, line in logger.layers
        if re.search(r"/(reduce|middle|project)\]", metadata)
    ]
    assert len(read) > 5
    assert sum(TYPES[precision] in types for types in read) > len(read) / 2


@pytest.mark.parametrize(
    ("space_name", "precision"), [("mbv3-small-images", "fp32"), ("mbv3-tiny", "fp16"), ("mbv3-tiny", "int8")]
)
def test_every_block_finds_its_kernels_in_a_merged_engine(space_name: str, precision: Precision) -> None:
    space = preset(space_name)
    blocks = {f"b{i}": layer for i, layer in enumerate(distinct_layers(space, space.resolutions[0]).values())}
    model = in_precision(merged_model(blocks, batch=1), precision, "tensorrt").SerializeToString()
    logger = TellingLogger()
    build_plan(trt, logger, model, BuildSettings(compute_capability="8.9", detailed=True))
    names = node_names({"Name": name, "Metadata": metadata} for name, metadata, _ in logger.layers)
    times = {names.get(name, name): [1.0] for name, _, _ in logger.layers}
    assert len(times) == len(logger.layers)
    assert set(block_times_ms(times, blocks)) == set(blocks)
    of_blocks = [set(re.findall(r"\b(b\d+)/", nodes.split(" (")[0])) for nodes in names.values()]
    assert all(len(found) <= 1 for found in of_blocks)  # nothing is fused across blocks


def test_a_foreign_engine_does_not_run_here(tmp_path: Path) -> None:
    backend = Rtx(tmp_path).backend
    loaded = backend.load(subnet("mbv3-tiny"))
    for run in (loaded, lambda: loaded.predict([]), lambda: backend.kernel_times_ms(subnet("mbv3-tiny"), 1)):
        with pytest.raises(BackendError, match=r"capability 8\.9, which do not run here; take compute_capability out"):
            run()


def test_it_is_a_profiling_backend(tmp_path: Path) -> None:
    backend: Backend = Rtx(tmp_path).backend
    assert isinstance(backend, ProfilingBackend)
    assert backend.versions == {"tensorrt-rtx": trt.__version__}


@pytest.mark.parametrize("damage", [b"", b"ofa-kit engine 1\n", b"no engine"])
def test_a_damaged_entry_is_built_anew_with_one_line(damage: bytes, tmp_path: Path) -> None:
    model = subnet("mbv3-tiny")
    Rtx(tmp_path).backend.build(model)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage)
    rtx = Rtx(tmp_path)
    assert not rtx.backend.build(model).from_cache
    assert rtx.backend.build(model).from_cache
    assert rtx.warnings == [f"engine cache: '{entry}' is damaged; it is made anew"]


def test_one_changed_byte_is_damage(tmp_path: Path) -> None:
    model = subnet("mbv3-tiny")
    Rtx(tmp_path).backend.build(model)
    (entry,) = tmp_path.iterdir()
    content = bytearray(entry.read_bytes())
    content[-1000] ^= 1
    entry.write_bytes(content)
    rtx = Rtx(tmp_path)
    assert not rtx.backend.build(model).from_cache
    assert len(rtx.warnings) == 1


def test_entries_of_another_version_are_built_anew_with_one_line(tmp_path: Path) -> None:
    models = [subnet("mbv3-tiny", seed) for seed in (0, 1)]
    for model in models:
        Rtx(tmp_path).backend.build(model)
    for entry in tmp_path.iterdir():
        now, before = trt.__version__.encode(), b"1.0.0.1"
        entry.write_bytes(entry.read_bytes().replace(b"RTX " + now, b"RTX " + before, 1))
    rtx = Rtx(tmp_path)
    assert not any(rtx.backend.build(model).from_cache for model in models)
    assert all(rtx.backend.build(model).from_cache for model in models)
    (line,) = rtx.warnings
    assert f"were made by TensorRT-RTX 1.0.0.1, this is TensorRT-RTX {trt.__version__}" in line


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    rtx = Rtx(tmp_path / "file" / "engines")
    for seed in (0, 1):
        assert rtx.backend.build(subnet("mbv3-tiny", seed)).plan
    (line,) = rtx.warnings
    assert "cannot write in folder" in line


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": "fp16"},
        {"compute_capability": "8.6"},
        {"options": {"tf32": "off"}},
        {"options": {"optimization_level": "1"}},
        {"launch": "cuda-graph"},
    ],
)
def test_what_changes_the_engine_changes_its_place(changed: dict[str, Any], tmp_path: Path) -> None:
    model = subnet("mbv3-tiny")
    Rtx(tmp_path).backend.build(model)
    assert not Rtx(tmp_path, **changed).backend.build(model).from_cache
    assert Rtx(tmp_path).backend.build(model).from_cache


def test_names_and_notes_change_nothing_unless_layers_are_told_apart_by_them() -> None:
    plain, noted = [onnx.load_from_string(subnet("mbv3-tiny", note=text, prefix=text)) for text in ("", "new")]
    other = onnx.load_from_string(subnet("mbv3-tiny", seed=1))
    assert model_digest(plain, keep_names=False) == model_digest(noted, keep_names=False)
    assert model_digest(plain, keep_names=True) != model_digest(noted, keep_names=True)
    assert model_digest(plain, keep_names=False) != model_digest(other, keep_names=False)


def test_weights_and_shapes_change_the_digest() -> None:
    space = preset("mbv3-tiny")
    net = layers(space, space.smallest())
    digests = {model_digest(network_model(net, random_weights, batch=batch), keep_names=False) for batch in (1, 2)}
    scaled = network_model(net, lambda layer: {k: v * 2 for k, v in random_weights(layer).items()}, batch=1)
    assert len(digests | {model_digest(scaled, keep_names=False)}) == 3


def test_an_open_batch_size_is_that_of_the_profile(tmp_path: Path) -> None:
    space = preset("mbv3-tiny")
    net = layers(space, space.smallest())
    opened, closed = [network_model(net, random_weights, batch=batch).SerializeToString() for batch in (None, 4)]
    backend = Rtx(tmp_path, batch=4).backend
    backend.build(closed)
    assert backend.build(opened).from_cache


def test_a_model_with_int8_pairs_keeps_its_ranges(tmp_path: Path) -> None:
    source = onnx.load_from_string(subnet("mbv3-tiny"))
    shape = [dim.dim_value for dim in source.graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(1).standard_normal((4, *shape), dtype=np.float32)
    calibrated = in_precision(source, "int8", "tensorrt", images=images).SerializeToString()
    backend = Rtx(tmp_path, precision="int8").backend
    backend.build(calibrated)
    assert not backend.build(source.SerializeToString()).from_cache
    assert backend.build(calibrated).from_cache


@pytest.mark.parametrize("operator", ["Det", "NoSuchOperator"])
def test_an_operator_that_is_not_supported_is_named_with_its_node(operator: str, tmp_path: Path) -> None:
    node = helper.make_node(operator, ["x"], ["y"], name="b1/odd")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", (1, 3, 3)), ("y", (1,)))
    ]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), ir_version=10)
    with pytest.raises(BackendError, match=f"does not support operator '{operator}' as node 'b1/odd'") as caught:
        Rtx(tmp_path).backend.build(model.SerializeToString())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compute_capability": "9.0"}, r"builds for compute capability .*8\.9.*; found 9\.0"),
        ({"options": {"workspace_mib": "much"}}, "workspace_mib is a number from 1"),
        ({"options": {"tf32": "maybe"}}, "tf32 is on or off"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=message):
        Rtx(tmp_path, **fields).backend.build(subnet("mbv3-tiny"))


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'optimization_level'"):
        Rtx(tmp_path, options={"optimisation_level": "3"}).backend.build(subnet("mbv3-tiny"))


def test_the_cache_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "ofa-kit" / "engines"
    assert EngineCache().folder == default_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "ofa-kit" / "engines"


def test_a_logger_keeps_errors_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    logger = quiet_logger(trt)
    with pytest.raises(BackendError, match="cannot parse the model"):
        build_plan(trt, logger, b"no model", BuildSettings(compute_capability="8.9"))
    assert logger.errors
    assert capfd.readouterr() == ("", "")
