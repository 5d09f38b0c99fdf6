"""A recurrent cell searched, trained from scratch beside an LSTM of its size, exported and timed; by DARTS here.

Each part is kept in the run folder: the same call with `resume` goes on where a kill came.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ofa_kit import storage
from ofa_kit.commands.search_recurrent_export import ExportedModel, export_language_model, token_latencies
from ofa_kit.commands.search_recurrent_models import (
    TrainedModel,
    params_of,
    search_genotype,
    train_genotype,
    train_lstm,
)
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.errors import OfaKitError, RunError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.recurrent.any_cell import AnyGenotype, FoundCell, read_cell, write_cell
from ofa_kit.nas.recurrent.picture import draw
from ofa_kit.nas.recurrent.recipe import RecurrentRecipe, TextRecipe
from ofa_kit.nas.recurrent.run import RecurrentRun
from ofa_kit.nas.recurrent.tree import TreeGenotype
from ofa_kit.nas.recurrent.tree_picture import draw_tree
from ofa_kit.progress import Reporter, Silent

R = TypeVar("R", bound=TextRecipe)
GENOTYPE, PICTURE, RESULT = "genotype.txt", "cell.png", "result.json"


@dataclass(frozen=True)
class RecurrentFound:
    """A cell, the models trained with it and beside it, and what was measured of them."""

    run: RecurrentRun[Any]
    genotype: AnyGenotype
    trained: dict[str, TrainedModel]
    exported: dict[str, ExportedModel] = field(default_factory=dict)
    latency: dict[str, Measurement] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        text = self.run.text
        models = {}
        for name, trained in self.trained.items():
            models[name] = trained.values()
            if name in self.exported:
                made = self.exported[name]
                models[name] |= {
                    "onnx": str(made.path),
                    "onnx_tokens": made.tokens,
                    "onnx_max_relative_difference": made.max_relative_difference,
                    "onnx_perplexity": made.perplexity_onnx,
                    "pytorch_perplexity_same_tokens": made.perplexity_pytorch,
                }
            if name in self.latency:
                models[name] |= {
                    "token_latency_ms": self.latency[name].latency_ms,
                    "token_latency_p50_ms": self.latency[name].p50_ms,
                }
        return {
            "genotype": write_cell(self.genotype),
            "data": text.info.data,
            "words": text.info.words,
            "test_unknown_share": text.unknown_share(text.test),
            "seed": self.run.recipe.seed,
            "models": models,
        }

    def facts(self) -> dict[str, Any]:
        """Return all of it, for a program."""
        return self.values()

    def lines(self) -> list[str]:
        """Return what a person reads."""
        values = self.values()
        words = f"{values['words']:,} words in the vocabulary"
        text = [f"cell     {values['genotype']}", f"text     {values['data']}, {words}"]
        for title, model in values["models"].items():
            latency = f", {model['token_latency_ms']:.4f} ms a token (measured)" if "token_latency_ms" in model else ""
            text.append(
                f"{title:8} {model['params']:,} weights, perplexity {model['validation_perplexity']:.2f} validation, "
                f"{model['test_perplexity']:.2f} test (measured){latency}"
            )
            text.append(
                f"         {model['onnx']}: logits differ by {model['onnx_max_relative_difference']:.1e} on "
                f"{model['onnx_tokens']} test tokens"
            )
        return [*text, f"run      {self.run.folder}"]


def search_recurrent(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    genotype: AnyGenotype | None = None,
    lstm: bool = True,
    device: DeviceProfile | None = None,
    reporter: Reporter | None = None,
) -> RecurrentFound:
    """Search a cell by DARTS (or take `genotype`) and go on as `search_and_train`."""
    reporter = reporter or Silent()
    run = open_run(values, folder, RecurrentRecipe, source=source, resume=resume)
    return search_and_train(run, search_genotype, genotype=genotype, lstm=lstm, device=device, reporter=reporter)


def search_and_train(
    run: RecurrentRun[R],
    search: Callable[[RecurrentRun[R], Reporter], AnyGenotype],
    *,
    genotype: AnyGenotype | None = None,
    lstm: bool = True,
    device: DeviceProfile | None = None,
    reporter: Reporter,
) -> RecurrentFound:
    """Search a cell (or take `genotype`), train its language model and, with `lstm`, one of an LSTM, in the run.

    The models are exported to ONNX, compared with PyTorch, and timed where a `device` is given.
    """
    prepare_torch()
    folder = run.folder
    found = _genotype(run, search, genotype, reporter)
    reporter.say(f"cell: {write_cell(found)}")
    _draw(found, folder / PICTURE, reporter)
    trained = {"cell": train_genotype(run, found, reporter)}
    if lstm:
        trained["lstm"] = train_lstm(run, params_of(run, found), reporter)
    exported = {name: _export(run, each) for name, each in trained.items()}
    latency = {}
    if device:
        models = {name: each.model for name, each in trained.items()}
        latency = token_latencies(models, device, folder / f"latency-{device.name}.csv", reporter)
    result = RecurrentFound(run, found, trained, exported, latency)
    storage.write_text(folder / RESULT, json.dumps(result.values(), indent=2) + "\n")
    return result


def open_run(values: Mapping[str, Any], folder: Path, kind: type[R], *, source: str, resume: bool) -> RecurrentRun[R]:
    """Begin a run of this kind of recipe or, with `resume`, open it; a RunError where the folder does not fit."""
    if not resume:
        return RecurrentRun.create(folder, kind.parse(values, source))
    run = RecurrentRun.open(folder, kind)
    if values and kind.parse(values, source) != run.recipe:
        raise RunError(
            f"run '{folder}' was begun with another recipe than --resume is given; leave the recipe and its settings "
            "out, or start another --run NAME"
        )
    return run


def _genotype(
    run: RecurrentRun[R],
    search: Callable[[RecurrentRun[R], Reporter], AnyGenotype],
    given: AnyGenotype | None,
    reporter: Reporter,
) -> AnyGenotype:
    """Return the run's cell: what it holds already, what is given, or what a search finds."""
    path = run.folder / GENOTYPE
    if path.exists():
        kept = read_cell(path.read_text(encoding="utf-8"))
        if given is not None and given != kept:
            raise RunError(f"'{path}' holds another cell than --genotype; leave it out, or start another --run NAME")
        return kept
    found = given or search(run, reporter)
    storage.write_text(path, write_cell(found) + "\n")
    return found


def _draw(genotype: AnyGenotype, path: Path, reporter: Reporter) -> None:
    """Draw the cell; without matplotlib the rest of the work goes on."""
    try:
        if isinstance(genotype, TreeGenotype):
            draw_tree(genotype, path)
        else:
            draw(genotype, path)
    except OfaKitError as error:
        reporter.say(f"no picture of the cell: {error}")


def _export(run: RecurrentRun[Any], trained: TrainedModel) -> ExportedModel:
    cell = trained.model.cell
    facts = {
        "cell": write_cell(cell.genotype) if isinstance(cell, FoundCell) else trained.name,
        "text": run.text.info.content,
        "level": run.text.info.level,
        "vocabulary": list(run.text.vocabulary.tokens),
        "validation_perplexity": trained.validation_perplexity,
        "test_perplexity": trained.test_perplexity,
    }
    return export_language_model(trained.model, run.folder / f"{trained.name}.onnx", run.text.test, facts)
