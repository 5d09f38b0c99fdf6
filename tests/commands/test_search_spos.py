"""search spos: measured evolution within a budget, on real images with weights as they start."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from ofa_kit import storage
from ofa_kit.arch.features import macs_of
from ofa_kit.arch.layers import macs
from ofa_kit.arch.presets import preset
from ofa_kit.commands.measure_engine import Measuring
from ofa_kit.commands.search_spos import deploy_found, search_spos
from ofa_kit.commands.spos_evolution import SposEvolution, SposSettings
from ofa_kit.commands.spos_log import COLUMNS
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement, TimingProtocol
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.search.budget import Budget, Objective
from ofa_kit.search.feasible import require_feasible
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.run import Run
from tests.commands.processes import refused
from tests.conftest import ofa_kit_here
from tools.command_processes import kill_when

SPACE = preset("spos-small-images-channels")
BLOCKS = preset("spos-small-images")
SMALL = SposSettings(population=6, generations=3, parents=2, mutations=3, crossovers=2)


def zeros(genomes):
    return np.zeros(len(genomes))


def evolution(budget, **settings):
    objective = Objective(SPACE, budget, zeros, zeros)
    return SposEvolution(objective=objective, start=require_feasible(objective), settings=SposSettings(**settings))


def searched(found, top1_of, most=5000):
    """Measure what the evolution asks for, in parts that do not fit its generations."""
    measured = []
    while (asked := found.next(measured, 7)) and len(measured) < most:
        measured += [(arch, top1_of(arch)) for arch in asked]
    return measured


def law(arch):
    """A top-1 that grows with xception units in late stages: what random draws seldom have together."""
    return 10.0 * sum(operation == 3 for operation in arch.stages[-1].operations) + 5 * arch.stages[0].expand_ratios[0]


def test_each_generation_brings_different_subnets_within_the_budget_and_better_ones():
    measured = searched(evolution(Budget(macs_m=9.0), generations=10), law)
    assert len(measured) == len({arch.key for arch, _ in measured}) == 50 * 10
    assert max(macs(SPACE, arch) for arch, _ in measured) <= 9e6
    assert max(top1 for _, top1 in measured) == 38.0
    draws = SPACE.sample_genomes(20_000, np.random.default_rng(1))
    within = draws[macs_of(SPACE, draws) <= 9e6][:1000]
    assert np.mean([law(SPACE.decode(genome)) for genome in within]) < 20 < np.mean([t for _, t in measured[-100:]])


def test_a_budget_that_few_subnets_meet_ends_with_those_few():
    smallest = SPACE.smallest()
    measured = searched(evolution(Budget(macs_m=macs(SPACE, smallest) / 1e6)), law)
    assert [arch for arch, _ in measured] == [smallest]
    tight = searched(evolution(Budget(macs_m=1.02 * macs(SPACE, smallest) / 1e6), generations=3), law)
    assert 10 < len(tight) <= 150


def new_run(folder):
    dataset = open_dataset("digits", photo_size=32)
    values = {"space": BLOCKS.name, "data": "digits", "method": "single-path", "calibration_images": 20}
    run = Run.create(folder, Recipe.parse(values, "test"), dataset.info)
    run.save_supernet(Supernet(run.space).state_dict())
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return new_run(tmp_path_factory.mktemp("runs") / "spos")


HOW = Measuring(images=20, processes=1)


def test_a_killed_search_ends_like_one_that_was_not(run, tmp_path):
    budget = Budget(macs_m=9.5, params_m=0.27)
    found = search_spos(run, budget, settings=SMALL, how=HOW)
    rows = storage.read_rows(found.log, COLUMNS)
    assert found.measured == len(rows) == 18
    assert [row["generation"] for row in rows] == sorted(row["generation"] for row in rows)
    assert {row["origin"] for row in rows} == {"random", "mutation", "crossover"}
    assert found.best.top1 == max(float(row["top1"]) for row in rows)
    assert found.best.macs_m <= 9.5
    assert found.best.params_m <= 0.27
    assert (found.best.latency_ms_predicted, found.best.latency_ms) == (None, None)

    killed = new_run(tmp_path / "killed")
    table = AccuracyTable.open(run.accuracy, run.load_supernet()[1])
    text = run.accuracy.read_text(encoding="utf-8").splitlines(keepends=True)
    killed.accuracy.write_text("".join(text[:9]) + text[9][:20], encoding="utf-8")  # torn in the second generation
    log = found.log.read_text(encoding="utf-8").splitlines(keepends=True)
    (killed.folder / found.log.name).write_text("".join(log[:7]), encoding="utf-8")
    again = search_spos(killed, budget, settings=SMALL, how=HOW)
    assert (again.best, again.leaders) == (found.best, found.leaders)
    assert again.log.read_text(encoding="utf-8") == found.log.read_text(encoding="utf-8")
    assert len(AccuracyTable.open(killed.accuracy, table.weights_hash).rows) == 18


def test_a_finished_search_measures_nothing_again(run):
    budget = Budget(macs_m=9.5, params_m=0.27)
    before = run.accuracy.read_bytes()
    assert search_spos(run, budget, settings=SMALL, how=HOW).measured == 18
    assert run.accuracy.read_bytes() == before


def test_a_budget_nothing_meets_is_refused_before_anything_is_measured(run):
    before = run.accuracy.read_bytes()
    with pytest.raises(InfeasibleBudgetError, match=r"the smallest has .* MACs"):
        search_spos(run, Budget(macs_m=1.0), settings=SMALL, how=HOW)
    with pytest.raises(OfaKitError, match="needs a device that was profiled"):
        search_spos(run, Budget(latency_ms=1.0), settings=SMALL, how=HOW)
    assert run.accuracy.read_bytes() == before


def test_a_latency_budget_is_met_by_measured_times(run, tmp_path):
    quick = TimingProtocol(sessions=1, rounds_per_block=2, warmup_runs=1, warmup_s=0.0, min_burst_s=0.0, pause_s=0.0)
    device = replace(DeviceProfile.load("cpu-ort"), protocol=quick)
    table, rng = LatencyTable.create(tmp_path, device, run.space, {}), np.random.default_rng(0)
    found = Measurement(latency_ms=1, p50_ms=1, p90_ms=1, p99_ms=1, cv=0.01, runs=9, converged=True)
    for arch in [run.space.smallest(), *(run.space.sample(rng) for _ in range(8))]:  # as if it took 1 ms a M MACs
        ms = macs(run.space, arch) / 1e6
        table.add_subnet(arch, replace(found, latency_ms=ms), load=0.0, measured_at="2026-01-01T00:00:00Z")

    def search(latency_ms):
        budget = Budget(latency_ms=latency_ms)
        return search_spos(run, budget, device=device, settings=SMALL, how=HOW, tables=tmp_path)

    best = search(9.5).best
    assert best.macs_m == pytest.approx(best.latency_ms_predicted, rel=0.02)
    assert best.latency_ms == LatencyTable.open(tmp_path, device, run.space).subnets[best.arch.key][1].latency_ms
    assert 0 < best.latency_ms <= 9.5
    with pytest.raises(InfeasibleBudgetError, match="the fastest takes"):
        search(1e-3)


SEARCH = ("search", "spos", "--run", "spos", "--population", "6", "--generations", "3", "--parents", "2")
SEARCH += ("--crossovers", "2", "--images", "20", "--processes", "1")


def test_the_command_goes_on_after_a_kill_and_ends_like_a_search_that_was_not_killed(run, tmp_path):
    folder = tmp_path / "runs" / "spos"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("*.csv"))
    rows = folder / "accuracy.csv"
    kill_when(lambda: rows.exists() and rows.read_bytes().count(b"\n") > 6, *SEARCH, "--macs-m", "9.4", cwd=tmp_path)
    assert 6 < rows.read_bytes().count(b"\n") < 19
    again = ofa_kit_here(*SEARCH, "--macs-m", "9.4", "--resume", cwd=tmp_path)
    assert again.code == 0, again.err
    found = search_spos(run, Budget(macs_m=9.4), settings=SMALL, how=HOW)
    best = f"best     {found.best.arch.key}   top-1 {found.best.top1:.2f} % (measured)   budget 9.4 M MACs"
    assert again.out.splitlines()[0] == best
    searched = [row for row in storage.read_rows(found.log, COLUMNS) if row["budget"].startswith("9.4 M MACs")]
    assert storage.read_rows(folder / "spos.csv", COLUMNS) == searched


def test_what_was_found_is_exported_and_computes_what_pytorch_computes(run, tmp_path):
    best = search_spos(run, Budget(macs_m=9.5, params_m=0.27), settings=SMALL, how=HOW).best
    made = deploy_found(run, best, tmp_path / "best.onnx", budget="9.5 M MACs")
    assert (made.facts["arch_key"], made.predicted) == (best.arch.key, {})
    assert made.measured["validation_top1"] == pytest.approx(best.top1, abs=1e-3)
    assert made.measured["max_relative_difference"] < 1e-4
    assert made.measured["test_correct_onnx"] == made.measured["test_correct_pytorch"]
    assert made.measured["latency_ms"] > 0
    assert made.model_path.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no budget"),
        (("--macs-m", "1"), r"no subnet of 'spos-small-images-1x10' meets 1 M MACs; the smallest has \d.*M MACs"),
        (("--macs-m", "-1"), "--macs-m must be above 0"),
        (("--latency-ms", "5"), "needs a device that was profiled"),
        (("--latency-ms", "5", "--device", "cpu-ort"), "no latency table for device 'cpu-ort'"),
        (("--bit-ops-g", "1"), "--bit-ops-g counts quantised layers, and 'spos-small-images-1x10' has none"),
        (("--macs-m", "9", "--population", "0"), "--population must be at least 1"),
        (("--macs-m", "9", "--mutations", "5", "--crossovers", "5"), "are more than --population 6"),
        (("--macs-m", "9", "--mutation-probability", "2"), "--mutation-probability must be above 0"),
        (("--macs-m", "9", "--images", "0"), "--images must be at least 1"),
        (("--macs-m", "9", "--export", "best.pth"), "NAME.onnx or a folder"),
        (("--macs-m", "9", "--run", "nobody"), "no run 'runs/nobody'; found: spos"),
        (("--macs-m", "9", "--resume"), "nothing to resume"),
    ],
)
def test_misuse_ends_with_one_line_before_anything_is_measured(arguments, says, tmp_path, monkeypatch, capsys):
    if not (tmp_path / "runs").exists():
        new_run(tmp_path / "runs" / "spos")
    monkeypatch.chdir(tmp_path)
    refused(capsys, monkeypatch, *SEARCH, *arguments, says=says)
    assert sorted(path.name for path in (tmp_path / "runs" / "spos").iterdir()) == [
        "config.yaml",
        "supernet.safetensors",
    ]


def test_a_limit_below_the_smallest_imagenet_subnet_is_refused_before_weights_are_read(tmp_path, monkeypatch, capsys):
    info = replace(open_dataset("digits", photo_size=32).info, in_channels=3, class_names=tuple(map(str, range(1000))))
    Run.create(tmp_path / "runs" / "photos", Recipe.parse({"space": "spos-shufflenet"}, "test"), info)
    monkeypatch.chdir(tmp_path)
    refused(capsys, monkeypatch, "search", "spos", "--run", "photos", "--macs-m", "270.359359", says="270.3594 M MACs")
    refused(
        capsys, monkeypatch, "search", "spos", "--run", "photos", "--macs-m", "270.35936", says="no trained weights"
    )


def test_searches_on_other_images_or_devices_are_others(run, tmp_path):
    again = new_run(tmp_path / "run")
    first = search_spos(again, Budget(macs_m=9.5), settings=replace(SMALL, generations=1), how=HOW)
    more = Measuring(images=40, processes=1)
    second = search_spos(again, Budget(macs_m=9.5), settings=replace(SMALL, generations=1), how=more)
    rows = storage.read_rows(first.log, COLUMNS)
    assert [row["images"] for row in rows] == ["20"] * 6 + ["40"] * 6
    assert {one.arch.key for one in second.leaders} <= {row["key"] for row in rows[6:]}
