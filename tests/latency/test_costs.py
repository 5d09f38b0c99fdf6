from dataclasses import replace

import pytest

from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.errors import BackendError
from ofa_kit.graphs.build import network_model, random_weights
from ofa_kit.latency.costs import energy_counter, energy_mj, peak_memory_mib
from ofa_kit.latency.device import DeviceProfile

CPU = DeviceProfile.load("cpu-ort")


def model(name):
    space = preset(name)
    return network_model(layers(space, space.smallest()), random_weights, batch=1).SerializeToString()


def test_a_model_takes_at_least_the_memory_of_its_weights_and_a_large_one_more_than_a_small_one():
    models = {"small": model("mbv3-tiny"), "large": model("ofa-mbv3-w1.0")}
    found = peak_memory_mib(CPU, models)
    assert found.keys() == models.keys()
    assert found["large"] > len(models["large"]) / 2**20
    assert 0 <= found["small"] < found["large"] / 2


def test_memory_is_told_only_where_it_is_this_machines():
    assert peak_memory_mib(replace(CPU, backend="torch-cuda"), {"any": b""}) == {}
    with pytest.raises(BackendError, match=r"'cpu-ort': peak memory cannot be measured: .*cannot load"):
        peak_memory_mib(CPU, {"damaged": b"no model"})


def test_energy_is_the_counters_growth_a_run(tmp_path):
    counters = [tmp_path / f"intel-rapl:{package}" / "energy_uj" for package in (0, 1)]
    for counter in counters:
        counter.parent.mkdir()
        counter.write_text("1000000\n")

    def run():
        for counter in counters:
            counter.write_text(f"{int(counter.read_text()) + 1500}\n")

    joules = energy_counter(tmp_path)
    assert joules() == 2.0
    assert energy_mj(run, joules, seconds=0.01) == pytest.approx(3.0)


def test_a_counter_that_wraps_or_cannot_be_read_tells_nothing(tmp_path):
    assert energy_counter(tmp_path) is None
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.mkdir(parents=True)  # reading a folder fails, as reading without the right does
    assert energy_counter(tmp_path) is None
    values = iter([5.0, 1.0])
    assert energy_mj(lambda: None, lambda: next(values), seconds=0.0) is None
