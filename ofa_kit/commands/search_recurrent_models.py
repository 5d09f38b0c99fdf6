"""The models of a recurrent search, trained one after the other; a finished one is read again instead."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ofa_kit.data.text_batches import columns
from ofa_kit.nas.recurrent.alphas import RecurrentAlphas
from ofa_kit.nas.recurrent.any_cell import AnyGenotype, make_language_model, params_of_cell
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype
from ofa_kit.nas.recurrent.language_model import LanguageModel, make_lstm, perplexity
from ofa_kit.nas.recurrent.recipe import RecurrentRecipe, TextRecipe
from ofa_kit.nas.recurrent.retrain import TrainWork
from ofa_kit.nas.recurrent.run import RecurrentRun
from ofa_kit.nas.recurrent.saved import load_language_model, save_language_model
from ofa_kit.nas.recurrent.search import DartsWork
from ofa_kit.nas.recurrent.search_cell import SearchCell
from ofa_kit.nas.recurrent.work import generator_of
from ofa_kit.progress import Reporter
from ofa_kit.training.epochs import Seen, Work, work_through

SEARCH, TRAIN = 0, 1
"""What else a seed depends on: the two draw different numbers."""
MODEL, LOG, CHECKPOINT = "model.safetensors", "metrics.csv", "last.safetensors"
CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class TrainedModel:
    """A language model trained from scratch, and its perplexities, all measured in PyTorch."""

    name: str
    model: LanguageModel
    path: Path
    validation_perplexity: float
    """Of the best epoch, on which the choice of the epoch was made."""
    test_perplexity: float
    elapsed_s: float
    """Time of the training loop."""

    def values(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "model": str(self.path),
            "hidden": self.model.cell.hidden,
            "params": self.model.params,
            "validation_perplexity": self.validation_perplexity,
            "test_perplexity": self.test_perplexity,
            "elapsed_s": self.elapsed_s,
        }


def search_genotype(run: RecurrentRun[RecurrentRecipe], reporter: Reporter) -> RecurrentGenotype:
    """Search a cell by DARTS in RUN/search, from where an earlier call stood."""
    recipe, device = run.recipe.search, run.device
    generator, seed = generator_of(run.recipe.seed, SEARCH), seed_of(run.recipe, SEARCH)
    cell = SearchCell(recipe.nodes, recipe.hidden, generator, init_range=recipe.init_range, normalize=recipe.normalize)
    model = LanguageModel(cell, run.text.info.words, generator, init_range=recipe.init_range).to(device)
    alphas = RecurrentAlphas.fresh(recipe.nodes, generator, device=device)
    train, validation = (columns(part, recipe.batch).to(device) for part in (run.text.train, run.text.validation))
    work = DartsWork(model, alphas, train, validation, recipe, run.part("search") / LOG, seed)
    reporter.say(f"searching: {recipe.nodes} nodes, {model.params:,} weights, order {recipe.order}, {device.type}")
    finish(work, work.log, "search", reporter)
    return work.genotype


def train_genotype(run: RecurrentRun[Any], genotype: AnyGenotype, reporter: Reporter) -> TrainedModel:
    """Train the language model of a cell from scratch in RUN/cell."""
    recipe = run.recipe.train

    def fresh(generator: torch.Generator) -> LanguageModel:
        words = run.text.info.words
        return make_language_model(genotype, recipe.hidden, words, generator, init_range=recipe.init_range)

    return _train(run, "cell", fresh, reporter)


def train_lstm(run: RecurrentRun[Any], params: int, reporter: Reporter) -> TrainedModel:
    """Train the LSTM of about `params` weights alike in RUN/lstm."""
    return _train(run, "lstm", lambda generator: make_lstm(params, run.text.info.words, generator), reporter)


def params_of(run: RecurrentRun[Any], genotype: AnyGenotype) -> int:
    """Return the weights of a cell's language model in the run."""
    return params_of_cell(genotype, run.recipe.train.hidden, run.text.info.words)


def _train(
    run: RecurrentRun[Any], name: str, fresh: Callable[[torch.Generator], LanguageModel], reporter: Reporter
) -> TrainedModel:
    path = run.part(name) / MODEL
    if path.exists():
        model, facts = load_language_model(path)
        return _trained(name, model, path, facts)
    recipe, device = run.recipe.train, run.device
    model = fresh(generator_of(run.recipe.seed, TRAIN)).to(device)
    train = columns(run.text.train, recipe.batch).to(device)
    validation, test = (
        columns(part, run.recipe.evaluation_batch).to(device) for part in (run.text.validation, run.text.test)
    )
    work = TrainWork(model, train, validation, recipe, run.part(name) / LOG, seed_of(run.recipe, TRAIN))
    reporter.say(f"training {name}: {model.cell.hidden} features, {model.params:,} weights, {device.type}")
    elapsed_s = finish(work, work.log, name, reporter)
    facts = {
        "validation_perplexity": min(work.history),
        "test_perplexity": perplexity(work.best, test),
        "elapsed_s": elapsed_s,
        "text": run.text.info.content,
    }
    save_language_model(path, work.best, facts)
    return _trained(name, work.best.cpu(), path, facts)


def _trained(name: str, model: LanguageModel, path: Path, facts: Mapping[str, Any]) -> TrainedModel:
    found = {key: float(facts[key]) for key in ("validation_perplexity", "test_perplexity", "elapsed_s")}
    return TrainedModel(name, model.requires_grad_(False), path, **found)


def seed_of(recipe: TextRecipe, phase: int) -> int:
    """Return the seed of a phase's segments and masks."""
    return 2 * recipe.seed + phase


def finish(work: Work, log: Path, name: str, reporter: Reporter, *, checkpoint_s: float = CHECKPOINT_S) -> float:
    """Do what is left of the work, whose epochs' rows go to `log`, and return how long all of it took."""
    total = work.epochs * work.steps_per_epoch
    with reporter.task(name, total) as advance:

        def watch(seen: Seen) -> None:  # epochs have more segments or fewer: what counts is the share that is done
            advance(
                total * seen.done_steps // seen.total_steps,
                ", ".join(f"{key} {value:.3f}" for key, value in seen.losses.items()),
            )
            for row in (seen.rows or {}).get(log, []):
                found = {key: row[key] for key in ("loss", "reward", "validation_perplexity") if key in row}
                text = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found.items())
                reporter.say(f"{name} epoch {row['epoch']}: {text} (measured)")

        return work_through(work, log.with_name(CHECKPOINT), checkpoint_s=checkpoint_s, watch=watch).elapsed_s
