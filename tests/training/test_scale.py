"""Precision, accumulation, starting weights, and several processes that train as one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_kit import storage
from ofa_kit.arch.layers import params
from ofa_kit.arch.presets import preset
from ofa_kit.arch.single import only
from ofa_kit.data.batches import training_batches
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError, RunError
from ofa_kit.supernet.supernet import Supernet, zero_last_gammas
from ofa_kit.training import checkpoint
from ofa_kit.training.board import Board
from ofa_kit.training.distributed import Team
from ofa_kit.training.initial import load_initial
from ofa_kit.training.loop import METRICS, train
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.rules import Pass
from ofa_kit.training.run import Run
from ofa_kit.training.step import Step
from tests.digit_photos import write_digits

SHORT = {"space": "mbv3-tiny", "epochs": 1, "batch_size": 256, "calibration_images": 100, "validation_images": 50}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits", photo_size=32)


def gradients(supernet, recipe, images, labels, passes):
    supernet.zero_grad()
    loss = Step(supernet.train(), recipe, CPU).add_gradients(images, labels, passes, noise_seed=1)
    return loss, [p.grad.clone() for p in supernet.parameters() if p.grad is not None]


def batch(count=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 16, 16, generator=generator), torch.arange(count) % 10


def workers_of(launcher_pid):
    """Return the process ids that torchrun has started; they live on without it, in sessions of their own."""
    return [int(pid) for pid in Path(f"/proc/{launcher_pid}/task/{launcher_pid}/children").read_text().split()]


def test_accumulated_gradients_are_the_mean_over_the_parts():
    space = preset("mbv3-tiny")
    supernet = Supernet(space)
    images, labels = batch()
    passes = [Pass(space.largest(), "labels"), Pass(space.smallest(), "largest")]
    whole = Recipe(space="mbv3-tiny", batch_size=8)
    parts = [gradients(supernet, whole, images[i : i + 4], labels[i : i + 4], passes) for i in (0, 4)]
    loss, found = gradients(supernet, Recipe(space="mbv3-tiny", batch_size=8, accumulate=2), images, labels, passes)
    assert loss == pytest.approx((parts[0][0] + parts[1][0]) / 2, rel=1e-5)
    for gradient, one, other in zip(found, parts[0][1], parts[1][1], strict=True):
        torch.testing.assert_close(gradient, (one + other) / 2, rtol=1e-4, atol=1e-6)


def test_a_share_of_the_labels_mixes_the_gradients_of_both_targets():
    space = preset("mbv3-tiny")
    supernet = Supernet(space)
    images, labels = batch()

    def of(share, target):
        recipe = Recipe(space="mbv3-tiny", batch_size=8, label_share=share)
        passes = [Pass(space.largest(), "labels"), Pass(space.smallest(), target)]
        return gradients(supernet, recipe, images, labels, passes)[1]

    soft, hard, mixed = of(0.0, "largest"), of(0.0, "labels"), of(0.25, "largest")
    for one, other, gradient in zip(soft, hard, mixed, strict=True):
        torch.testing.assert_close(gradient, 0.75 * one + 0.25 * other, rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(one, other) for one, other in zip(soft, hard, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_clipped_gradient_keeps_its_direction_and_has_the_norm_of_its_bound(precision):
    space = preset("mbv3-tiny")
    images, labels = batch()
    supernet = Supernet(space).train()
    before = {name: value.detach().clone() for name, value in supernet.named_parameters()}
    passes = [Pass(space.largest(), "labels")]
    _, whole = gradients(supernet, Recipe(space="mbv3-tiny", precision=precision), images, labels, passes)
    recipe = Recipe(space="mbv3-tiny", precision=precision, clip_grad_norm=0.01)
    step = Step(supernet, recipe, CPU)
    supernet.zero_grad()
    step.add_gradients(images, labels, passes, noise_seed=1)
    step.update(torch.optim.SGD(supernet.parameters(), lr=1.0))
    moved = [before[name] - value.detach() for name, value in supernet.named_parameters() if value.grad is not None]
    found, wanted = (torch.cat([value.flatten() for value in values]) for values in (moved, whole))
    assert float(found.norm()) == pytest.approx(0.01, rel=1e-2)
    assert float(torch.nn.functional.cosine_similarity(found, wanted, dim=0)) == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_close_to_full_precision_and_keeps_fp32_weights(precision):
    space = preset("mbv3-tiny")
    supernet = Supernet(space)
    images, labels = batch(32)
    passes = [Pass(space.largest(), "labels")]
    full, _ = gradients(supernet, Recipe(space="mbv3-tiny"), images, labels, passes)
    half, found = gradients(supernet, Recipe(space="mbv3-tiny", precision=precision), images, labels, passes)
    assert half != full
    assert half == pytest.approx(full, rel=0.02)
    assert {g.dtype for g in found} == {torch.float32}


def test_noise_acts_on_the_regularized_pass_alone_and_comes_from_its_seed():
    space = preset("mbv3-tiny")
    recipe = Recipe(space="mbv3-tiny", dropout=0.3, drop_connect=0.3)
    images, labels = batch(16)
    supernet = Supernet(space)
    plain, noisy = (
        [gradients(supernet, recipe, images, labels, [Pass(space.largest(), "labels", regularized)])[0] for _ in "12"]
        for regularized in (False, True)
    )
    assert (
        plain[0]
        == plain[1]
        == gradients(supernet, Recipe(space="mbv3-tiny"), images, labels, [Pass(space.largest(), "labels")])[0]
    )
    assert noisy[0] == noisy[1] != plain[0]


@torch.no_grad()
def test_blocks_with_zero_last_gammas_start_as_their_shortcut():
    space = preset("mbv3-small-images")
    supernet = Supernet(space)
    zero_last_gammas(supernet)
    zeros = {
        name for name, value in supernet.state_dict().items() if name.endswith("project_bn.weight") and not value.any()
    }
    assert "layers.stage0_block1.project_bn.weight" in zeros
    assert "layers.stage0_block0.project_bn.weight" not in zeros  # it changes shape: nothing would pass


def test_training_starts_from_the_weights_of_another_run_with_other_classes(tmp_path, digits):
    space = preset("mbv3-tiny")
    source = Supernet(space, torch.Generator().manual_seed(5))
    checkpoint.save(tmp_path / "supernet.safetensors", source.state_dict(), {})
    other = Supernet(space.adapted(in_channels=1, num_classes=4))
    fresh = load_initial(other, str(tmp_path))
    assert fresh == ["layers.classifier.weight", "layers.classifier.bias"]
    assert torch.equal(other.state_dict()["layers.stem.conv.weight"], source.state_dict()["layers.stem.conv.weight"])
    with pytest.raises(RunError, match=r"does not hold the weights of the space 'mbv3-small-images'.*missing"):
        load_initial(Supernet(preset("mbv3-small-images")), str(tmp_path))
    values = SHORT | {"init_from": str(tmp_path), "lr": 1e-9, "warmup_epochs": 0}
    run = Run.create(tmp_path / "run", Recipe.parse(values, "test"), digits.info)
    train(run, digits)
    trained = run.load_supernet()[0].state_dict()["layers.stem.conv.weight"]
    torch.testing.assert_close(trained, source.state_dict()["layers.stem.conv.weight"], rtol=1e-4, atol=1e-6)


def test_parts_of_the_batches_of_several_processes_are_the_whole_batches(digits):
    settings = {"batch_size": 64, "seed": 1, "epoch": 2}
    whole = list(training_batches(digits.train, digits.info, **settings))
    parts = [list(training_batches(digits.train, digits.info, **settings, part=(i, 2))) for i in range(2)]
    for (images, labels), one, other in zip(whole, *parts, strict=True):
        assert torch.equal(images, torch.cat([one[0], other[0]]))
        assert torch.equal(labels, torch.cat([one[1], other[1]]))


def test_the_space_of_one_architecture_trains_that_network(tmp_path, digits, rng):
    space = preset("mbv3-tiny")
    arch = space.sample(rng)
    alone = only(space, arch)
    supernet = Supernet(alone)
    assert sum(p.numel() for p in supernet.parameters()) == params(space, arch)
    assert alone.largest() == alone.smallest() == arch


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where no GPU is")
def test_a_gpu_that_is_not_there_is_a_user_error(tmp_path, digits):
    run = Run.create(tmp_path / "run", Recipe.parse(SHORT | {"accelerator": "cuda"}, "test"), digits.info)
    with pytest.raises(OfaKitError, match="finds no GPU"):
        train(run, digits)


def test_a_batch_that_cannot_be_cut_into_equal_parts_is_a_user_error(tmp_path, digits):
    run = Run.create(tmp_path / "run", Recipe.parse(SHORT, "test"), digits.info)
    with pytest.raises(RunError, match="batch_size 256 cannot be cut into 3 processes"):
        train(run, digits, team=Team(0, 3, CPU))


@pytest.fixture
def photos(tmp_path):
    """A few of the digits as image files: at least five batches of 32 for training."""
    return write_digits(tmp_path / "photos", 280)


def test_two_processes_killed_and_resumed_end_like_one_process_with_the_joined_batch(tmp_path, photos):
    values = SHORT | {"data": photos, "lr": 0.05, "batch_size": 32, "num_random": 0, "checkpoint_s": 0.0}
    values |= {"precision": "fp64", "validation_images": 20}
    dataset = open_dataset(photos, photo_size=32)
    assert len(dataset.train.labels) >= 5 * values["batch_size"]
    single = Run.create(tmp_path / "one", Recipe.parse(values, "test"), dataset.info)
    train(single, dataset)
    settings = [f"--set={key}={value}" for key, value in values.items() if key not in ("space", "epochs", "data")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "ofa_kit"]
    command += ["train-supernet", "--name", str(tmp_path / "two")]
    begin = [*command, "--space=mbv3-tiny", f"--data={photos}", "--epochs=1", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(begin, env=environment, stderr=subprocess.DEVNULL)
    last = tmp_path / "two" / "checkpoints" / "last.safetensors"
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and not (last.exists() and checkpoint.load(last)[1]["step"] >= 2):
        time.sleep(0.05)
    for pid in (process.pid, *workers_of(process.pid)):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert 2 <= checkpoint.load(last)[1]["step"] < 5
    assert not (tmp_path / "two" / "supernet.safetensors").exists()
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    joined = Run.open(tmp_path / "two")
    for name, expected in single.load_supernet()[0].state_dict().items():
        found = joined.load_supernet()[0].state_dict()[name]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=name)
    rows = [storage.read_rows(run.metrics, METRICS) for run in (single, joined)]
    assert np.allclose(*[[float(row["loss"]) for row in table] for table in rows], atol=2e-4)


def test_tensorboard_is_an_extra_and_says_so_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OfaKitError, match=r"install `ofa-kit\[tensorboard\]`"):
        Board(tmp_path, purge_step=0)
