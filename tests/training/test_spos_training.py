"""What SPOS's recipe adds to training: a linear schedule, and batch norm without affine."""

from dataclasses import replace

import pytest
import torch

from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import RecipeError
from ofa_kit.training.loop import train
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.run import Run
from ofa_kit.training.schedule import learning_rate


def test_the_linear_schedule_falls_by_equal_steps_to_zero():
    rates = [learning_rate("linear", 0.5, s, steps=10, steps_per_epoch=5, warmup=0) for s in range(11)]
    assert rates == pytest.approx([0.5 * (1 - s / 10) for s in range(11)])
    warmed = [learning_rate("linear", 0.5, s, steps=10, steps_per_epoch=5, warmup=2) for s in range(11)]
    assert warmed[:3] == pytest.approx([0.25, 0.5, 0.5])
    assert warmed[-1] == 0


def test_without_affine_every_gamma_stays_1_and_beta_0_while_weights_move(tmp_path):
    digits = open_dataset("digits", photo_size=32)
    digits = replace(digits, train=replace(digits.train, indices=digits.train.indices[:128]))
    values = {"space": "mbv3-tiny", "data": "digits", "method": "single-path", "epochs": 1, "batch_size": 64}
    values |= {"schedule": "linear", "bn_affine": False, "calibration_images": 50, "validation_images": 50}
    run = Run.create(tmp_path / "run", Recipe.parse(values, "test"), digits.info)
    train(run, digits)
    supernet = run.load_supernet()[0]
    norms = [module for module in supernet.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)
    assert any((norm.running_mean != 0).any() for norm in norms)
    with pytest.raises(RecipeError, match="zero_init_gamma needs bn_affine"):
        Recipe.parse(values | {"zero_init_gamma": True}, "test")
