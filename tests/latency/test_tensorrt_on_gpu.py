"""What TensorRT and TensorRT-RTX compute and report on a GPU; skipped where there is none."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.latency.backends.nvidia import driver_facts
from ofa_kit.latency.backends.onnxruntime import OrtBackend
from ofa_kit.latency.backends.tensorrt import TensorRtBackend, TensorRtRtxBackend
from ofa_kit.latency.board.runner.sessions import block_times_ms
from ofa_kit.latency.device import DeviceProfile

Name = Literal["tensorrt", "tensorrt-rtx"]
CLASSES: dict[Name, type[TensorRtBackend]] = {"tensorrt": TensorRtBackend, "tensorrt-rtx": TensorRtRtxBackend}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(driver_facts() is None, reason="this machine has no NVIDIA driver with a GPU"),
]


def backend(name: Name, folder: Path, launch: Literal["eager", "cuda-graph"] = "eager") -> TensorRtBackend:
    kind = CLASSES[name]
    if find_spec(kind.module) is None:
        pytest.skip(f"package {kind.package} is not installed")
    profile = DeviceProfile(name="gpu", backend=name, batch=2, launch=launch, options={"tf32": "off"})
    return kind(profile, cache_folder=folder)


@pytest.mark.parametrize("launch", ["eager", "cuda-graph"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_gpu_computes_what_onnx_runtime_computes(
    name: Name, launch: Literal["eager", "cuda-graph"], tmp_path: Path, rng: np.random.Generator
) -> None:
    space = preset("mbv3-small-images")
    net = layers(space, space.sample(rng))
    model = network_model(net, random_weights, batch=2).SerializeToString()
    found = backend(name, tmp_path, launch)
    loaded = found.load(model)
    size = net[0].input_size
    batches = [rng.standard_normal((2, net[0].in_channels, size, size), dtype=np.float32) for _ in range(2)]
    expected = OrtBackend(DeviceProfile(name="cpu", backend="onnxruntime", batch=2)).load(model).predict(batches)
    assert np.abs(loaded.predict(batches) - expected).max() <= 1e-3 * np.abs(expected).max()
    on_gpu_s, wall_s = found.timer(loaded)
    assert 0 < on_gpu_s <= wall_s


@pytest.mark.parametrize("name", CLASSES)
def test_every_block_has_a_time(name: Name, tmp_path: Path) -> None:
    space = preset("mbv3-tiny")
    blocks = {f"b{i}": layer for i, layer in enumerate(distinct_layers(space, space.resolutions[0]).values())}
    model = merged_model(blocks, batch=2).SerializeToString()
    times = backend(name, tmp_path).kernel_times_ms(model, runs=4)
    assert all(len(values) == 4 for values in times.values())
    assert set(block_times_ms(times, blocks)) == set(blocks)


@pytest.mark.parametrize("name", CLASSES)
def test_a_second_engine_comes_from_the_cache(name: Name, tmp_path: Path) -> None:
    space = preset("mbv3-tiny")
    model = network_model(layers(space, space.smallest()), random_weights, batch=2).SerializeToString()
    first, second = [backend(name, tmp_path).build(model) for _ in range(2)]
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.plan == first.plan
