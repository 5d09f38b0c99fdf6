"""Children that fail are rows: killed for real, out of real memory, diverged; and engines agree."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch

from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError, RunError
from ofa_kit.nas.nas_rl.engine import Failed, InThisProcess
from ofa_kit.nas.nas_rl.engine_processes import SeveralProcesses, end_of
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.nas.nas_rl.search import Search
from ofa_kit.nas.nas_rl.text import read_conv_net
from ofa_kit.nas.nas_rl.training import ChildData, ChildResult, ChildTrainer
from tests.conftest import REPO

TINY = {"data": "digits", "images": 80, "filters": [2, 3], "layers": 2, "deepen_every": 4, "deepen_by": 1}
TINY |= {"children": 8, "round_size": 4, "epochs": 1, "batch_size": 16, "final_epochs": 1, "accelerator": "cpu"}
TINY |= {"controller_lr": 0.05}
NET, OTHER = read_conv_net("3x3*3; 1x3*2 (1)"), read_conv_net("5x5*2")


@dataclasses.dataclass(frozen=True)
class Deadly(ChildTrainer):
    """A trainer whose process is killed while it trains one of the networks."""

    key: str = ""

    def train(self, net):
        if net.key == self.key:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(net)


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


def test_a_child_that_needs_too_much_memory_fails_and_others_do_not(data):
    if not hasattr(os, "fork"):
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

    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(REPO), os.environ.get("PYTHONPATH", "")])
    )
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
    from ofa_kit.commands.search_nas_rl import Training

    with pytest.raises(OfaKitError, match="a memory limit needs children in processes"):
        Training(processes=0).open(ChildTrainer(tiny(), data), memory_mb=100, gpu=False)
    with pytest.raises(OfaKitError, match="--processes is for --engine processes"):
        Training(engine="ray", processes=2)
