"""specialize: what is exported was measured within the budget, on every device asked for."""

import csv
import json
from dataclasses import asdict, replace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from ofa_kit.arch.selection import spread_subnets
from ofa_kit.cli.main import app
from ofa_kit.commands.finetune import finetune
from ofa_kit.commands.profile import profile
from ofa_kit.commands.specialize import Specializer
from ofa_kit.commands.specialize_fleet import read_fleet, specialize_fleet
from ofa_kit.commands.specialize_site import Safety, Site
from ofa_kit.commands.specialize_top1 import TrainedSubnets
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError, RecipeError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import TimingProtocol
from ofa_kit.latency.table import LatencyTable
from ofa_kit.search.budget import Budget
from tests.commands.runs import measure_latency, measure_top1, new_run

QUICK = TimingProtocol(sessions=2, rounds_per_block=4, pause_s=0.0, warmup_runs=2, warmup_s=0.0)
ONE = replace(DeviceProfile.load("cpu-ort"), name="one", subnets=6, protocol=QUICK)
OTHER = replace(ONE, name="other", batch=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run whose top-1 was measured, and the tables of two devices that were really profiled."""
    folder = tmp_path_factory.mktemp("specialize")
    run = new_run(folder / "runs" / "digits")
    measure_top1(run, spread_subnets(run.space, 16))
    for device in (ONE, OTHER):
        profile(device, run.space, tables=folder / "tables")
    return folder, run


@pytest.fixture(scope="module")
def specializer(place):
    folder, run = place
    return Specializer.open(run, ONE, OTHER, tables=folder / "tables")


def ends_ms(site):
    """The fastest and the slowest subnet of a table."""
    times = sorted(found.latency_ms for _, found in site.table.subnets.values())
    return times[0], times[-1]


def facts_of(folder):
    return json.loads((folder / "deployment.json").read_text())


def test_one_subnet_meets_the_budgets_of_two_devices(specializer, tmp_path):
    (low, high), (other_low, other_high) = map(ends_ms, specializer.sites)
    budget = Budget(latency_ms=(low + high) / 2, other_latencies_ms={"other": (other_low + other_high) / 2})
    made = specializer.specialize(budget, tmp_path / "both")
    facts = facts_of(tmp_path / "both")
    assert facts["measured"]["latency_ms"] <= budget.latency_ms
    assert facts["other_devices"]["other"]["latency_ms_measured"] <= budget.other_latencies_ms["other"]
    assert facts["other_devices"]["other"]["latency_ms_predicted"] > 0
    assert "on other" in facts["budget"]
    assert specializer.space.contains(made.arch)


def test_quantile_and_headroom_are_kept(specializer, tmp_path):
    site, safety = specializer.sites[0], Safety(percentile="90", headroom=20)
    budget = Budget(latency_ms=1.5 * max(found.p90_ms for _, found in site.table.subnets.values()))
    made = specializer.specialize(budget, tmp_path / "safe", safety=safety)
    assert made.measured["latency_p90_ms"] <= 0.8 * budget.latency_ms
    assert site.time_per_floor(safety) >= 1 == site.time_per_floor(Safety())


def test_of_those_accurate_enough_the_fastest(specializer, tmp_path):
    known = specializer.trained.table.rows.values()
    wanted = sorted(top1 for _, top1 in known)[len(known) // 2]
    made = specializer.specialize(Budget(min_top1=wanted), tmp_path / "accurate")
    assert made.measured["validation_top1"] >= wanted
    with pytest.raises(InfeasibleBudgetError, match="min-top1"):
        specializer.specialize(Budget(min_top1=99.9), tmp_path / "never")
    assert not (tmp_path / "never" / "model.onnx").exists()


def test_a_budget_that_nothing_meets_says_what_the_fastest_takes(specializer, tmp_path):
    with pytest.raises(InfeasibleBudgetError, match=r"fastest takes .* ms"):
        specializer.specialize(Budget(latency_ms=1e-4), tmp_path / "never")


def test_on_a_device_that_is_elsewhere_predictions_with_their_error_bars_count(place, tmp_path):
    _, run = place
    device = replace(DeviceProfile.load("cpu-ort"), protocol=QUICK)
    measure_latency(run, spread_subnets(run.space, 12), tmp_path)
    table = LatencyTable.open(tmp_path, device, run.space)
    facts = json.loads(table.path.with_suffix(".json").read_text())
    table.path.with_suffix(".json").write_text(json.dumps(facts | {"measured_elsewhere": "board"}))
    site = Site(device, run.space, tmp_path)
    low, high = ends_ms(site)
    before = table.path.read_bytes()
    made = Specializer(TrainedSubnets(run), [site]).specialize(Budget(latency_ms=(low + high) / 2), tmp_path / "board")
    assert "latency_ms" not in made.measured or made.arch.key in site.table.subnets
    assert site.time_ms(made.arch, Safety()) <= (low + high) / 2
    assert table.path.read_bytes() == before


def test_a_fleet_shares_what_was_measured_and_goes_on_after_a_budget_that_is_not_met(place, tmp_path):
    folder, run = place
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(asdict(ONE)))
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(f"- device: {tmp_path / 'one.yaml'}\n  latency_ms: [0.0001, 100]\n  percentile: 50\n")
    rows = specialize_fleet(run, read_fleet(fleet), tmp_path / "out", tables=folder / "tables")
    assert [bool(row["error"]) for row in rows] == [True, False]
    assert "fastest takes" in rows[0]["error"]
    assert list(csv.DictReader((tmp_path / "out" / "fleet.csv").open())) == rows
    assert facts_of(tmp_path / "out" / rows[1]["folder"])["arch_key"] == rows[1]["arch_key"]
    assert float(rows[1]["latency_ms_measured"]) <= 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("device: one\nlatency_ms: 1\n", "must be a list"),
        ("- device: one\n", "latency_ms"),
        ("- {device: one, latency_ms: -1}\n", "must be above 0"),
        ("- {device: one, latency: 1}\n", "did you mean 'latency_ms'"),
        ("- {device: one, latency_ms: 1, percentile: 42}\n", "percentile"),
    ],
)
def test_a_fleet_file_that_is_wrong_says_where(tmp_path, content, said):
    (tmp_path / "fleet.yaml").write_text(content)
    with pytest.raises(OfaKitError, match=said) as caught:
        read_fleet(tmp_path / "fleet.yaml")
    assert isinstance(caught.value, RecipeError) or "above 0" in said or "mean" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no budget"),
        (["--latency-ms", "1", "--latency-ms", "2"], "2 times --latency-ms for 1 devices"),
        (["--device", "cpu-ort", "--device", "cpu-ort", "--latency-ms", "1"], "given twice"),
        (["--latency-ms", "0"], "must be above 0"),
        (["--latency-ms", "1", "--headroom", "100"], "headroom"),
        (["--fleet", "f.yaml", "--latency-ms", "1"], "leave out --latency-ms"),
        (["--fleet", "f.yaml", "--export", "m.onnx"], "--export FOLDER"),
    ],
)
def test_options_that_contradict_are_refused(options, said):
    done = CliRunner().invoke(app, ["specialize", *options])
    assert isinstance(done.exception, OfaKitError)
    assert said in str(done.exception)


def test_fine_tuning_trains_the_subnet_alone_once_and_what_it_gives_is_measured(place):
    _, run = place
    trained, arch = TrainedSubnets(run), run.space.smallest()
    subnet, top1, weights_hash = finetune(trained, arch, 1)
    assert weights_hash != trained.weights_hash
    assert top1 > trained.evaluator.top1(trained.supernet, arch)  # whose weights are random
    before = {path: path.read_bytes() for path in (run.folder / "finetuned").rglob("*.safetensors")}
    again, *rest = finetune(trained, arch, 1)
    assert rest == [top1, weights_hash]
    assert all(torch.equal(a, b) for a, b in zip(subnet.parameters(), again.parameters(), strict=True))
    assert {path: path.read_bytes() for path in (run.folder / "finetuned").rglob("*.safetensors")} == before
