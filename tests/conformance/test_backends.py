"""Every device profile passes one list, or says in one line why it cannot run here."""

import re
import sys

import numpy as np
import onnxruntime
import pytest

from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.errors import BackendError
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.latency.backends import BACKENDS, backend_for
from ofa_kit.latency.backends.backend import ProfilingBackend
from ofa_kit.latency.board.runner.sessions import block_times_ms
from ofa_kit.latency.device import DeviceProfile, device_names
from ofa_kit.latency.protocol import TimingProtocol, measure

NETWORKS = pytest.mark.parametrize("name", ["mbv3-tiny", "resnet-small-images"])
QUICK = TimingProtocol(rounds_per_block=5, pause_s=0.0, warmup_runs=2, warmup_s=0.0)
RELATIVE_ERROR = {"fp32": 0.005, "fp16": 0.01, "int8": 0.1}
"""Of the logits, against ONNX Runtime's in fp32; GPUs may compute fp32 products in TF32."""
EXACT = 1e-5
"""The same for fp32 on a CPU."""


MEASURED = [name for name in device_names() if DeviceProfile.load(name).backend in BACKENDS]
"""Other devices are known by imported tables alone."""


@pytest.fixture(scope="module", params=MEASURED)
def backend(request):
    try:
        return backend_for(DeviceProfile.load(request.param))
    except BackendError as error:
        assert_says_what_to_do(error)
        pytest.skip(str(error))


def assert_says_what_to_do(error):
    assert "\n" not in str(error)
    assert re.search(r"run `|install|choose|use ", str(error)), str(error)


def network(name, batch):
    space = preset(name)
    return network_model(layers(space, space.largest()), random_weights, batch=batch).SerializeToString()


def reference_logits(model, batches):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])


def random_batches(name, batch):
    space = preset(name)
    first = layers(space, space.largest())[0]
    rng = np.random.default_rng(1)
    shape = (batch, first.in_channels, first.input_size, first.input_size)
    return [rng.standard_normal(shape, dtype=np.float32) for _ in range(3)]


@NETWORKS
def test_a_loaded_model_computes_the_logits_of_the_onnx_model(backend, name):
    profile = backend.profile
    model, batches = network(name, profile.batch), random_batches(name, profile.batch)
    expected = reference_logits(model, batches)
    found = backend.load(model).predict(batches)
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    exact = profile.precision == "fp32" and profile.name.startswith("cpu-")
    tolerance = EXACT if exact else RELATIVE_ERROR[profile.precision]
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def test_running_a_model_leaves_what_it_predicts_as_it_was(backend):
    batches = random_batches("mbv3-tiny", backend.profile.batch)
    model = backend.load(network("mbv3-tiny", backend.profile.batch))
    before = model.predict(batches)
    for _ in range(5):
        model()
    np.testing.assert_array_equal(model.predict(batches), before)


def test_models_loaded_side_by_side_are_timed(backend):
    models = {name: backend.load(network(name, backend.profile.batch)) for name in ("mbv3-tiny", "resnet-small-images")}
    for found in measure(models, np.random.default_rng(0), QUICK, timed=backend.timer).values():
        assert 0 < found.latency_ms < np.inf
        assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms
        assert found.runs >= 10
        assert 0 <= found.cv < np.inf


def test_what_is_no_model_is_refused_in_one_line(backend):
    for content in (b"no model", b"", network("mbv3-tiny", 1)[:1000]):
        with pytest.raises(BackendError) as refused:
            backend.load(content)
        assert "\n" not in str(refused.value)


def test_versions_and_facts_are_text(backend):
    assert backend.versions
    for name, value in {**backend.versions, **backend.facts}.items():
        assert isinstance(name, str)
        assert isinstance(value, str)
        assert value


@NETWORKS
def test_a_merged_graph_gives_every_block_a_time(backend, name):
    blocks = {f"b{i}": layer for i, layer in enumerate(some_blocks(name))}
    times, calls = profiled(backend, blocks)
    found = block_times_ms(times, blocks)
    assert found.keys() == blocks.keys()
    assert all(0 < ms < np.inf for ms in found.values())
    assert calls >= 8


@pytest.mark.parametrize("op", ["inverted_residual", "bottleneck"])
def test_equal_blocks_of_a_merged_graph_share_no_work(backend, op):
    space = preset("ofa-resnet50d" if op == "bottleneck" else "ofa-mbv3-w1.0")
    candidates = distinct_layers(space, space.resolutions[-1]).values()
    block = next(layer for layer in candidates if layer.op == op and layer.stride == 2)
    times, _ = profiled(backend, {"b0": block, "b1": block})
    assert kernels(times, "b0") == kernels(times, "b1")


def some_blocks(name):
    space = preset(name)
    return list(distinct_layers(space, space.resolutions[0]).values())[::5]


def profiled(backend, blocks):
    """Return a profiling backend's times by node name and how often it told that a run was over."""
    if not isinstance(backend, ProfilingBackend):
        pytest.skip(f"{backend.profile.name} does not tell the times of nodes")
    calls = []
    model = merged_model(blocks, batch=backend.profile.batch).SerializeToString()
    return backend.kernel_times_ms(model, 8, lambda: calls.append(1)), len(calls)


def kernels(times, prefix):
    """Names of a block's kernels without its prefix and without the numbers that runtimes append."""
    return {re.sub(r"\d+", "", name.replace(f"{prefix}/", "")) for name in times if f"{prefix}/" in name}


def test_a_provider_that_leaves_nodes_to_the_cpu_is_an_error():
    profile = DeviceProfile(name="cloud", backend="onnxruntime", provider="AzureExecutionProvider")
    if profile.provider not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no provider that takes none of the nodes")
    with pytest.raises(BackendError, match="fallback to CPU EP has been explicitly disabled"):
        backend_for(profile).load(network("mbv3-tiny", 1))


def test_two_packages_of_onnxruntime_are_refused(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match="onnxruntime and onnxruntime-gpu are both installed"):
        backend_for(DeviceProfile.load("cpu-ort"))


@pytest.mark.parametrize(
    ("device", "package", "install"),
    [
        ("cpu-openvino", "openvino", r"pip install 'ofa-kit\[openvino\]'"),
        ("cpu-ort", "onnxruntime", "pip install onnxruntime"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(device, package, install, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendError, match=install):
        backend_for(DeviceProfile.load(device))


@pytest.mark.parametrize("backend_name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("field", [{"precision": "fp16"}, {"launch": "cuda-graph"}])
def test_what_a_cpu_cannot_do_is_refused(backend_name, field):
    profile = DeviceProfile(name="board", backend=backend_name, **field)
    if backend_name == "openvino":
        openvino = pytest.importorskip("openvino")
        if "precision" in field and "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("this processor computes in half precision")
    with pytest.raises(BackendError, match=next(iter(field.values()))):
        backend_for(profile)
