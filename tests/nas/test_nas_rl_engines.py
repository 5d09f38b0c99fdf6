"""Children that fail are rows: killed for real, out of real memory, diverged; and engines agree."""

import csv
import dataclasses
import os
import signal
import sys
import time
from multiprocessing import get_all_start_methods

import pytest
import torch
from safetensors.torch import load_file

from ofa_kit.commands.search_nas_rl import Training, search_nas_rl
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError, RunError
from ofa_kit.nas.nas_rl.engine import Failed, InThisProcess
from ofa_kit.nas.nas_rl.engine_processes import PRELOADED, SeveralProcesses, end_of
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.nas.nas_rl.search import Search
from ofa_kit.nas.nas_rl.text import read_conv_net
from ofa_kit.nas.nas_rl.training import ChildData, ChildResult, ChildTrainer
from ofa_kit.training.clean_processes import process_context
from tests.conftest import REPO
from tests.nas.nas_rl_children import TINY, Deadly, parent_of_a_worker, search_here

NET, OTHER = read_conv_net("3x3*3; 1x3*2 (1)"), read_conv_net("5x5*2")


@pytest.fixture(scope="module")
def data():
    return ChildData.of(open_dataset("digits", photo_size=8), tiny())


def tiny(**settings):
    return NasRlRecipe.parse({**TINY, **settings}, "test")


def searched(engine, recipe, data, folder):
    search = Search(recipe, recipe.shape(data.info), folder, folder / "checkpoints" / "last.safetensors")
    try:
        search.run(engine)
    finally:
        engine.close()
    return [dataclasses.replace(search.children.all[n], seconds=0.0) for n in sorted(search.children.all)]


def test_processes_find_what_one_finds_and_a_killed_child_is_a_row(data, tmp_path):
    recipe = tiny()
    here = searched(InThisProcess(ChildTrainer(recipe, data)), recipe, data, tmp_path / "here")
    victim = here[5]
    assert victim.round == 2
    assert [child.key for child in here].count(victim.key) == 1
    two = searched(SeveralProcesses(Deadly(recipe, data, key=victim.key), 2), recipe, data, tmp_path / "two")
    assert two[5] == dataclasses.replace(
        victim, top1=None, reward=0.0, error="process killed by SIGKILL (out of memory?)"
    )
    assert two[:5] + two[6:] == here[:5] + here[6:]
    assert len({child.reward for child in here}) > 1


def test_no_process_outlives_a_search_that_was_killed():
    if "forkserver" not in get_all_start_methods():
        pytest.skip("this system does not fork")
    context = process_context(PRELOADED)
    ours, theirs = context.Pipe()
    search = context.Process(target=parent_of_a_worker, args=(theirs,))
    search.start()
    worker = ours.recv()
    assert is_there(worker)
    os.kill(search.pid, signal.SIGKILL)
    search.join()
    end_s = time.monotonic() + 20
    while is_there(worker) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert not is_there(worker)


def rows_of(path):
    """Return the rows without their times, in order."""
    with path.open() as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: int(row.get("number", row["round"])))


def test_killed_9_in_a_round_and_resumed_is_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole, rows = tmp_path / "whole", tmp_path / "cut" / "children.csv"
    search_here(whole)
    process = process_context(PRELOADED).Process(target=search_here, args=(rows.parent,))
    process.start()
    while not (rows.exists() and rows.read_bytes().count(b"\n") > 5):
        assert process.is_alive(), "it ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.join()
    kept = rows_of(rows)
    assert 5 <= len(kept) < 8, "it was killed in the second round"
    trained, train = [], ChildTrainer.train
    monkeypatch.setattr(ChildTrainer, "train", lambda self, net: trained.append(net.key) or train(self, net))
    search_nas_rl({}, rows.parent, resume=True, how=Training(processes=0))
    assert not {row["key"] for row in kept} & set(trained), "what has a row is not trained again"
    for name in ("children.csv", "controller.csv"):
        assert rows_of(rows.with_name(name)) == rows_of(whole / name)
    assert (rows.parent / "result.json").read_text() == (whole / "result.json").read_text()
    for name in ("last", "final"):
        ends = [load_file(folder / "checkpoints" / f"{name}.safetensors") for folder in (whole, rows.parent)]
        assert ends[0].keys() == ends[1].keys()
        assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_needs_too_much_memory_fails_and_others_do_not(data):
    if sys.platform != "linux":
        pytest.skip("this system does not limit the memory of a process")
    large = read_conv_net("7x7*4000; 7x7*4000 (1)")
    engine = SeveralProcesses(ChildTrainer(tiny(), data), 2, memory_mb=1000)
    try:
        found = dict(engine.train([large, NET]))
    finally:
        engine.close()
    assert found[large] == Failed("out of memory")
    assert found[NET].top1 == ChildTrainer(tiny(), data).train(NET).top1


def test_a_child_that_diverges_fails_and_a_search_of_nothing_else_stops(data, tmp_path):
    recipe = tiny(lr=1e18)
    found = dict(InThisProcess(ChildTrainer(recipe, data)).train([NET]))
    assert found[NET].error.startswith("diverged: loss ")
    with pytest.raises(
        RunError, match="all 4 children of round 1 failed and none before succeeded; the first: diverged"
    ):
        searched(InThisProcess(ChildTrainer(recipe, data)), recipe, data, tmp_path)


def test_ray_finds_what_one_process_finds_and_a_killed_child_is_a_row(data, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ofa_kit.nas.nas_rl.engine_ray import RayEngine

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]))
    recipe = tiny()
    here = searched(InThisProcess(ChildTrainer(recipe, data)), recipe, data, tmp_path / "here")
    ray = searched(RayEngine(Deadly(recipe, data, key=here[5].key)), recipe, data, tmp_path / "ray")
    assert ray[:5] + ray[6:] == here[:5] + here[6:]
    assert ray[5].error.startswith("lost by Ray: ")
    assert (ray[5].top1, ray[5].reward) == (None, 0.0)


def test_a_result_depends_on_the_network_alone(data):
    trainer = ChildTrainer(tiny(), data)
    first = trainer.train(NET)
    torch.manual_seed(123)
    trainer.train(OTHER)
    assert trainer.train(NET).top1 == first.top1
    assert isinstance(first, ChildResult)


def test_the_end_of_a_process_is_told_in_words():
    assert end_of(-11) == "process killed by SIGSEGV"
    assert end_of(1) == "process ended with exit code 1; it says above why"


def test_a_memory_limit_needs_processes(data):
    with pytest.raises(OfaKitError, match="a memory limit needs children in processes"):
        Training(processes=0).open(ChildTrainer(tiny(), data), memory_mb=100, gpu=False)
    with pytest.raises(OfaKitError, match="--processes is for --engine processes"):
        Training(engine="ray", processes=2)
