import itertools
import time

import numpy as np
import onnxruntime
import pytest

from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.errors import BackendError
from ofa_kit.graphs.build import merged_model, network_model, random_weights
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.board.runner.sessions import block_times_ms
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import TimingProtocol, blocks_settled, measure

PROTOCOL = TimingProtocol()
QUICK = TimingProtocol(rounds_per_block=8, pause_s=0.0, warmup_runs=2, warmup_s=0.0)


def busy(seconds):
    def run():
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    return run


def test_the_floor_is_the_cpu_time_of_one_run_in_the_order_of_the_work():
    found = measure({"long": busy(0.004), "short": busy(0.001)}, np.random.default_rng(0), QUICK)
    assert 4.0 <= found["long"].latency_ms < 8.0
    assert 1.0 <= found["short"].latency_ms < 2.0
    for value in found.values():
        assert value.latency_ms <= value.p50_ms <= value.p90_ms
        assert value.runs >= 16


def test_a_model_that_grows_slower_between_the_blocks_has_not_converged():
    calls = [0]

    def drifting():
        calls[0] += 1
        busy(0.002 if calls[0] <= 22 else 0.004)()  # 2 to warm up, then 10 rounds of 2 in the first block

    protocol = TimingProtocol(rounds_per_block=10, pause_s=0.0, warmup_runs=2, warmup_s=0.0, min_burst_s=0.002)
    assert not measure({"drifting": drifting}, np.random.default_rng(0), protocol)["drifting"].converged


def test_a_clock_that_stands_still_now_and_then_does_not_make_a_floor():
    times = iter(itertools.cycle([0.002, 0.0021, 0.0, 0.0025]))

    def timed(run):
        run()
        seconds = next(times)
        return seconds, seconds

    found = measure({"a": lambda: None}, np.random.default_rng(0), QUICK, timed=timed)["a"]
    assert found.latency_ms == pytest.approx(2.0)


def test_a_provider_that_is_missing_is_an_error_not_a_fall_back():
    profile = DeviceProfile(name="gpu", backend="onnxruntime", provider="TensorrtExecutionProvider")
    if profile.provider in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has TensorRT")
    with pytest.raises(BackendError, match="asks for TensorrtExecutionProvider"):
        backend_for(profile)


def test_what_onnxruntime_refuses_is_a_backend_error():
    with pytest.raises(BackendError, match="cannot load the model"):
        backend_for(DeviceProfile.load("cpu-ort")).load(b"no model")


@pytest.mark.parametrize("name", ["mbv3-tiny", "mbv3-small-images"])
def test_the_merged_graph_gives_every_block_a_time(name):
    space = preset(name)
    prefixes = {f"b{i}": layer for i, layer in enumerate(distinct_layers(space, space.resolutions[0]).values())}
    backend = backend_for(DeviceProfile.load("cpu-ort"))
    times = backend.kernel_times_ms(merged_model(prefixes, batch=1).SerializeToString(), runs=5)
    blocks = block_times_ms(times, prefixes)
    assert blocks.keys() == prefixes.keys()
    assert all(ms > 0 for ms in blocks.values())
    unknown = {name for name in times if not name.split("/")[0].lstrip("_").startswith("b")}
    assert all(name.startswith(("ReorderInput", "ReorderOutput")) for name in unknown), unknown


def test_a_batch_size_left_open_takes_any_batch():
    space = preset("mbv3-tiny")
    model = network_model(layers(space, space.smallest()), random_weights, batch=None)
    session = backend_for(DeviceProfile.load("cpu-ort")).load(model.SerializeToString())
    images = np.random.default_rng(0).standard_normal((5, 1, 8, 8), dtype=np.float32)
    one_by_one = session.predict([image[None] for image in images])
    np.testing.assert_allclose(session.predict([images]), one_by_one, rtol=1e-4, atol=1e-5)


def test_blocks_settle_when_half_of_them_agree_or_many_sessions_have_passed():
    steady, moving = [1.2, 1.0, 1.001], [1.2, 1.0, 1.1]
    assert blocks_settled([steady, steady, moving], PROTOCOL)
    assert not blocks_settled([steady, moving, moving], PROTOCOL)
    assert not blocks_settled([steady, steady[:1]], PROTOCOL)
    assert blocks_settled([[*moving, 1.3]], PROTOCOL)
    assert not blocks_settled([], PROTOCOL)
    assert blocks_settled([[1.0]], TimingProtocol(sessions=1))
