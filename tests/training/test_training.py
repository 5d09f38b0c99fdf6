from dataclasses import replace

import numpy as np
import pytest
import torch

from ofa_kit import storage
from ofa_kit.data.dataset import Dataset, MemoryImages, Part
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import RunError
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training import checkpoint
from ofa_kit.training.loop import METRICS, train
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.run import Run
from ofa_kit.training.schedule import learning_rate

SHORT = {
    "space": "mbv3-tiny",
    "data": "digits",
    "epochs": 2,
    "batch_size": 32,
    "calibration_images": 100,
    "validation_images": 50,
}


@pytest.fixture(scope="module")
def digits():
    """A few of the digits: five batches an epoch."""
    whole = open_dataset("digits", photo_size=32)
    return replace(whole, train=Part(whole.train, np.arange(160)))


def trained(folder, digits, **values):
    run = Run.create(folder, Recipe.parse(SHORT | values, "test"), digits.info)
    train(run, digits)
    return run


class StoppedError(Exception):
    """Raised by a watcher in the middle of training."""


def stopped_and_resumed(folder, digits, after_steps, **values):
    """Train with a checkpoint after each step, break off after some steps, and train on."""
    run = Run.create(folder, Recipe.parse(SHORT | {"checkpoint_s": 0.0, **values}, "test"), digits.info)
    seen = []

    def watch(progress):
        seen.append(progress)
        if len(seen) == after_steps:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(run, digits, watch=watch)
    train(Run.open(folder), digits)
    return run


@pytest.mark.parametrize(
    "values",
    [
        {"method": "sandwich", "ema_decay": 0.9},
        {"method": "single-path", "optimizer": "adamw", "lr": 0.001, "schedule": "exponential"},
    ],
    ids=["sandwich-ema-sgd", "single-path-adamw"],
)
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, digits, values):
    whole = trained(tmp_path / "whole", digits, **values)
    for after_steps in (3, 7):
        resumed = stopped_and_resumed(tmp_path / f"resumed{after_steps}", digits, after_steps, **values)
        assert whole.weights.read_bytes() == resumed.weights.read_bytes()
        rows = [
            [(r["phase"], r["epoch"], r["loss"]) for r in storage.read_rows(run.metrics, METRICS)]
            for run in (whole, resumed)
        ]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("values", [{}, {"optimizer": "adamw", "lr": 0.001}], ids=["sgd", "adamw"])
def test_a_resumed_run_on_colour_images_ends_with_the_same_weights(tmp_path, digits, values):
    grey = [digits.train, digits.validation, digits.test]
    few = [np.arange(64), np.arange(50), np.arange(8)]
    parts = [
        MemoryImages(torch.stack([source.image(int(i)).repeat(3, 1, 1) for i in indices]), source.labels[indices])
        for source, indices in zip(grey, few, strict=True)
    ]
    colour = Dataset(replace(digits.info, in_channels=3, mean=(0.5,) * 3, std=(0.5,) * 3), *parts)
    values = {"batch_size": 16, "method": "single-path", "epochs": 1, "calibration_images": 20, **values}
    whole = trained(tmp_path / "whole", colour, **values)
    resumed = stopped_and_resumed(tmp_path / "resumed", colour, 2, **values)
    assert whole.weights.read_bytes() == resumed.weights.read_bytes()


def test_progressive_shrinking_resumes_across_its_phases_with_the_same_weights(tmp_path, digits):
    phases = [
        {"name": "largest", "epochs": 1, "lr": 0.1},
        {"name": "kernel", "epochs": 1, "lr": 0.1, "kernel_sizes": 2},
        {"name": "expand", "epochs": 1, "lr": 0.1, "subnets": 2, "sort_channels": True}
        | {"kernel_sizes": 2, "depths": 2, "expand_ratios": 3},
    ]
    values = {"method": "progressive-shrinking", "phases": phases}
    whole = trained(tmp_path / "whole", digits, **values)
    assert whole.teacher.exists()
    resumed = stopped_and_resumed(tmp_path / "resumed", digits, 9, **values)
    assert whole.weights.read_bytes() == resumed.weights.read_bytes()
    assert [row["phase"] for row in storage.read_rows(resumed.metrics, METRICS)] == ["largest", "kernel", "expand"]


def test_training_lowers_the_loss_and_another_seed_gives_other_weights(tmp_path, digits):
    run = trained(tmp_path / "run", digits, epochs=4, lr=0.1)
    losses = [float(row["loss"]) for row in storage.read_rows(run.metrics, METRICS)]
    assert losses[-1] < losses[0] - 0.05
    few = replace(digits, train=Part(digits.train, np.arange(32)))
    one, two = (trained(tmp_path / str(seed), few, epochs=1, seed=seed) for seed in (0, 1))
    assert one.load_supernet()[1] != two.load_supernet()[1]


def test_a_run_is_never_overwritten_and_an_unfinished_one_says_so(tmp_path, digits):
    run = Run.create(tmp_path / "run", Recipe.parse(SHORT | {"epochs": 1}, "test"), digits.info)
    with pytest.raises(RunError, match="--resume"):
        run.load_supernet()
    train(run, digits)
    with pytest.raises(RunError, match="choose another --run"):
        Run.create(tmp_path / "run", run.recipe, digits.info)
    with pytest.raises(RunError, match="no run"):
        Run.open(tmp_path / "other")


def test_damaged_weights_are_a_user_error(tmp_path, digits):
    run = Run.create(tmp_path / "run", Recipe.parse(SHORT, "test"), digits.info)
    run.save_supernet(Supernet(run.space).state_dict())
    run.weights.write_bytes(run.weights.read_bytes()[:1000])
    with pytest.raises(RunError, match="cannot read"):
        run.load_supernet()


def test_schedules_warm_up_and_end_where_they_should():
    def at(kind, step):
        return learning_rate(kind, 0.4, step, steps=1000, steps_per_epoch=10, warmup=10)

    assert at("cosine", 0) == pytest.approx(0.04)
    assert at("cosine", 10) == at("exponential", 10) == pytest.approx(0.4)
    assert at("cosine", 999) < 1e-4
    assert at("exponential", 10**6) == pytest.approx(0.02)
    rates = [at(kind, step) for kind in ("cosine", "exponential") for step in range(10, 1000)]
    assert np.all(np.diff(rates[:990]) < 0)


def test_the_weights_hash_follows_the_weights():
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2)}
    before = checkpoint.weights_hash(tensors)
    assert checkpoint.weights_hash(dict(reversed(tensors.items()))) == before
    tensors["a"][0] = 9
    assert checkpoint.weights_hash(tensors) != before


def test_a_diverged_training_stops_and_says_so(tmp_path, digits):
    with pytest.raises(RunError, match="training diverged"):
        trained(tmp_path / "run", digits, lr=1e12, epochs=4)
