"""The searches of recurrent cells as commands, and their recipes: what they write, refuse and time."""

import shutil

import pytest
import torch

from ofa_kit.commands.search_recurrent import search_recurrent
from ofa_kit.commands.search_recurrent_export import token_latencies
from ofa_kit.config import profile_names, read_yaml
from ofa_kit.data.text_batches import columns
from ofa_kit.errors import RecipeError, RunError, UnknownNameError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import TimingProtocol
from ofa_kit.nas.recurrent.cell import GenotypeCell, LstmCell
from ofa_kit.nas.recurrent.dropout import DropoutRates
from ofa_kit.nas.recurrent.genotype import PRESETS, read_genotype
from ofa_kit.nas.recurrent.language_model import LanguageModel, perplexity
from ofa_kit.nas.recurrent.recipe import FOLDER, RecurrentRecipe, SearchRecipe, TrainRecipe, find_recipe, nested
from ofa_kit.nas.recurrent.saved import load_language_model

SOME = DropoutRates(embedded=0.1, cell_input=0.2, cell_state=0.2, output=0.2)
TINY = {
    "search": {"nodes": 2, "hidden": 8, "epochs": 1, "batch": 16, "bptt": 10, "lr": 2.0, "order": "first"},
    "train": {"hidden": 10, "epochs": 2, "batch": 16, "bptt": 10, "lr": 2.0},
    "evaluation_batch": 2,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", profile_names(FOLDER))
def test_every_recipe_is_read(name):
    path = find_recipe(name)
    recipe = RecurrentRecipe.parse(read_yaml(path), str(path))
    assert recipe.train.epochs > 0


def test_the_recipe_of_penn_treebank_is_the_published_one():
    recipe = RecurrentRecipe.parse(read_yaml(find_recipe("ptb")), "ptb")
    assert recipe.search == SearchRecipe()
    assert recipe.train == TrainRecipe(epochs=3600)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"serach": {}}, "did you mean 'search'"),
        ({"search": {"hiden": 3}}, "did you mean 'hidden'"),
        ({"train": {"lr": 0}}, r"train.lr must be above 0"),
        ({"train": {"dropout": {"output": 1.0}}}, r"train.dropout.output must be in 0..1"),
        ({"search": {"batch": 1}}, "needs a search.batch of at least 2"),
        ({"level": "letter"}, "level: Input should be"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values, message):
    with pytest.raises((RecipeError, UnknownNameError), match=message):
        RecurrentRecipe.parse(values, "test.yaml")


def test_settings_reach_into_the_parts_of_a_recipe():
    values = {"search": {"lr": 1.0}, "seed": 1}
    assert nested(values, {"search.lr": 2.0, "train.dropout.output": 0.1, "seed": 3}) == {
        "search": {"lr": 2.0},
        "train": {"dropout": {"output": 0.1}},
        "seed": 3,
    }
    assert values == {"search": {"lr": 1.0}, "seed": 1}


def test_the_command_searches_trains_exports_and_goes_on(tmp_path):
    folder = tmp_path / "run"
    device = DeviceProfile(
        name="quick",
        backend="onnxruntime",
        protocol=TimingProtocol(sessions=1, rounds_per_block=2, pause_s=0.0, warmup_runs=2, warmup_s=0.0),
    )
    found = search_recurrent(TINY, folder, device=device)
    values = found.values()
    assert read_genotype((folder / "genotype.txt").read_text()) == found.genotype
    assert (folder / "cell.png").read_bytes()[:4] == b"\x89PNG"
    cell, lstm = (found.trained[name].model for name in ("cell", "lstm"))
    assert abs(lstm.params / cell.params - 1) < 0.05
    for name, model in values["models"].items():
        assert 1 < model["test_perplexity"] < values["words"] * 2
        assert model["onnx_max_relative_difference"] < 1e-4
        assert model["token_latency_ms"] > 0
        loaded, facts = load_language_model(folder / name / "model.safetensors")
        test = columns(found.run.text.test, 2)
        assert perplexity(loaded, test) == pytest.approx(facts["test_perplexity"], rel=1e-6)
    with pytest.raises(RunError, match="exists; go on with --resume"):
        search_recurrent(TINY, folder)
    with pytest.raises(RunError, match="another recipe"):
        search_recurrent({**TINY, "seed": 1}, folder, resume=True)
    with pytest.raises(RunError, match="another cell"):
        search_recurrent({}, folder, resume=True, genotype=PRESETS["enas"])
    for name in ("search", "lstm"):
        shutil.rmtree(folder / name)
    again = search_recurrent({}, folder, resume=True)
    assert again.genotype == found.genotype
    for name, trained in found.trained.items():
        assert again.trained[name].test_perplexity == trained.test_perplexity


def test_a_given_cell_is_trained_without_a_search(tmp_path):
    one_epoch = nested(TINY, {"train.epochs": 1})
    found = search_recurrent(one_epoch, tmp_path / "run", genotype=PRESETS["darts-v1"], lstm=False)
    assert not (tmp_path / "run" / "search").exists()
    assert list(found.trained) == ["cell"]
    path = found.trained["cell"].path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="cannot read"):
        load_language_model(path)


def test_a_text_that_changed_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two three four five\n" * 200)
    values = nested(TINY, {"data": f"text:{path}", "train.epochs": 1})
    search_recurrent(values, tmp_path / "run", genotype=PRESETS["darts-v1"], lstm=False)
    path.write_text("one two three four six\n" * 200)
    with pytest.raises(RunError, match="begun with another text"):
        search_recurrent({}, tmp_path / "run", resume=True)


def test_latency_is_measured_for_both_models_in_turn(tmp_path):
    protocol = TimingProtocol(sessions=2, rounds_per_block=2, pause_s=0.0, warmup_runs=2, warmup_s=0.0)
    device = DeviceProfile(name="quick", backend="onnxruntime", protocol=protocol)
    cell = GenotypeCell(PRESETS["darts-v2"], 16, seeded())
    models = {
        "small": LanguageModel(cell, 30, seeded()),
        "large": LanguageModel(LstmCell(512, seeded()), 5000, seeded()),
    }
    found = token_latencies(models, device, tmp_path / "times.csv")
    assert 0 < found["small"].latency_ms < found["large"].latency_ms
