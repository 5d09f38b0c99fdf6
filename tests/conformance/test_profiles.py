"""Every YAML in profiles/ loads, and what is wrong in one is named."""

import contextlib

import pytest

from ofa_kit.arch.presets import preset
from ofa_kit.config import profile_names, read_yaml, shipped_profiles
from ofa_kit.errors import BackendError, RecipeError, UnknownNameError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile, device_names
from ofa_kit.nas.cells.recipe import CellsRecipe
from ofa_kit.nas.darts.recipe import DartsRecipe
from ofa_kit.nas.enas.macro_network_recipe import MacroNetworkRecipe
from ofa_kit.nas.enas.macro_recipe import MacroRecipe
from ofa_kit.nas.enas.micro_recipe import MicroRecipe
from ofa_kit.nas.enas.recurrent_recipe import EnasRecurrentRecipe
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.nas.nas_rl.recurrent_recipe import RlRecurrentRecipe
from ofa_kit.training.phases import phases_of
from ofa_kit.training.recipe import Recipe, with_settings

OTHER_RECIPES = {
    "darts": DartsRecipe.parse,
    "cells": CellsRecipe.parse,
    "enas-macro": MacroRecipe.parse,
    "macro": MacroNetworkRecipe.parse,
    "enas-micro": MicroRecipe.parse,
    "enas-rnn": EnasRecurrentRecipe.parse,
    "nas-rl": NasRlRecipe.parse,
    "nas-rl-rnn": RlRecurrentRecipe.parse,
}
"""Recipes that train no supernet, by how their names begin."""


@pytest.mark.parametrize("name", profile_names("recipes"))
def test_every_recipe_is_read_and_those_of_supernets_give_phases(name):
    values = read_yaml(shipped_profiles() / "recipes" / f"{name}.yaml")
    kinds = [kind for kind in OTHER_RECIPES if name.startswith(f"{kind}-")]
    if kinds:
        assert OTHER_RECIPES[max(kinds, key=len)](values, name)
        return
    recipe = Recipe.parse(values, name)
    assert phases_of(recipe, preset(recipe.space))


@pytest.mark.parametrize("name", device_names())
def test_every_device_runs_or_says_what_is_missing(name):
    profile = DeviceProfile.load(name)
    assert profile.name == name
    with contextlib.suppress(BackendError):
        assert backend_for(profile).versions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": "mbv3-tiny", "epoch": 3}, "did you mean 'epochs'"),
        ({"space": "mbv3-tyni"}, "did you mean 'mbv3-tiny'"),
        ({"space": "mbv3-tiny", "epochs": "many"}, "epochs: Input should be a valid integer"),
        ({"space": "mbv3-tiny", "method": "sandwitch"}, "method: Input should be 'sandwich'"),
        ({"space": "mbv3-tiny", "lr": 0}, "lr must be above 0"),
        ({"epochs": 3}, "no space"),
        ({"space": "mbv3-tiny", "phases": [{"name": "a", "epochs": 1, "lr": 1, "kernels": 2}]}, "kernel_sizes"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values, message):
    with pytest.raises((RecipeError, UnknownNameError), match=message):
        Recipe.parse(values, "test.yaml")


def test_settings_are_put_over_the_recipe():
    assert with_settings({"space": "x", "lr": 1}, ["lr=0.5", "data=digits"]) == {
        "space": "x",
        "lr": 0.5,
        "data": "digits",
    }
    with pytest.raises(RecipeError, match="key=value"):
        with_settings({}, ["lr"])


def test_a_device_file_with_a_wrong_key_or_value_is_refused(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text("name: board\nbackend: onnxruntime\nthread: 2\n")
    with pytest.raises(UnknownNameError, match="did you mean 'threads'"):
        DeviceProfile.load(str(path))
    path.write_text("name: board\nbackend: onnxruntime\nthreads: 0\n")
    with pytest.raises(RecipeError, match="at least 1"):
        DeviceProfile.load(str(path))
    path.write_text("{")
    with pytest.raises(RecipeError, match="is not YAML"):
        DeviceProfile.load(str(path))
