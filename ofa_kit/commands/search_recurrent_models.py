"""The models of a recurrent search, trained one after the other; a finished one is read again instead."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ofa_kit.data.text_batches import columns
from ofa_kit.nas.recurrent.alphas import RecurrentAlphas
from ofa_kit.nas.recurrent.cell import GenotypeCell
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype
from ofa_kit.nas.recurrent.language_model import LanguageModel, genotype_params, make_lstm, perplexity
from ofa_kit.nas.recurrent.retrain import TrainWork
from ofa_kit.nas.recurrent.run import RecurrentRun
from ofa_kit.nas.recurrent.saved import load_language_model, save_language_model
from ofa_kit.nas.recurrent.search import DartsWork
from ofa_kit.nas.recurrent.search_cell import SearchCell
from ofa_kit.nas.recurrent.work import generator_of
from ofa_kit.progress import Reporter
from ofa_kit.training.epochs import Seen, work_through

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


def search_genotype(run: RecurrentRun, reporter: Reporter) -> RecurrentGenotype:
    """Search a cell in RUN/search, from where an earlier call stood."""
    recipe, device = run.recipe.search, run.device
    generator, seed = generator_of(run.recipe.seed, SEARCH), seed_of(run, SEARCH)
    cell = SearchCell(recipe.nodes, recipe.hidden, generator, init_range=recipe.init_range, normalize=recipe.normalize)
    model = LanguageModel(cell, run.text.info.words, generator, init_range=recipe.init_range).to(device)
    alphas = RecurrentAlphas.fresh(recipe.nodes, generator, device=device)
    train, validation = (columns(part, recipe.batch).to(device) for part in (run.text.train, run.text.validation))
    work = DartsWork(model, alphas, train, validation, recipe, run.part("search") / LOG, seed)
    reporter.say(f"searching: {recipe.nodes} nodes, {model.params:,} weights, order {recipe.order}, {device.type}")
    _work_through(work, "search", reporter)
    return work.genotype


def train_genotype(run: RecurrentRun, genotype: RecurrentGenotype, reporter: Reporter) -> TrainedModel:
    """Train the language model of a cell from scratch in RUN/cell."""
    recipe = run.recipe.train

    def fresh(generator: torch.Generator) -> LanguageModel:
        cell = GenotypeCell(genotype, recipe.hidden, generator, init_range=recipe.init_range)
        return LanguageModel(cell, run.text.info.words, generator, init_range=recipe.init_range)

    return _train(run, "cell", fresh, reporter)


def train_lstm(run: RecurrentRun, params: int, reporter: Reporter) -> TrainedModel:
    """Train the LSTM of about `params` weights alike in RUN/lstm."""
    return _train(run, "lstm", lambda generator: make_lstm(params, run.text.info.words, generator), reporter)


def params_of(run: RecurrentRun, genotype: RecurrentGenotype) -> int:
    """Return the weights of a cell's language model in the run."""
    return genotype_params(len(genotype.nodes), run.recipe.train.hidden, run.text.info.words)


def _train(
    run: RecurrentRun, name: str, fresh: Callable[[torch.Generator], LanguageModel], reporter: Reporter
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
    work = TrainWork(model, train, validation, recipe, run.part(name) / LOG, seed_of(run, TRAIN))
    reporter.say(f"training {name}: {model.cell.hidden} features, {model.params:,} weights, {device.type}")
    elapsed_s = _work_through(work, name, reporter)
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


def seed_of(run: RecurrentRun, phase: int) -> int:
    """Return the seed of a phase's segments and masks."""
    return 2 * run.recipe.seed + phase


def _work_through(work: DartsWork | TrainWork, name: str, reporter: Reporter) -> float:
    """Do what is left of the work and return how long all of it took."""
    total = work.epochs * work.steps_per_epoch
    with reporter.task(name, total) as advance:

        def watch(seen: Seen) -> None:  # epochs have more segments or fewer: what counts is the share that is done
            advance(total * seen.done_steps // seen.total_steps, f"loss {seen.losses['loss']:.3f}")
            for row in (seen.rows or {}).get(work.log, []):
                reporter.say(
                    f"{name} epoch {row['epoch']}: loss {row['loss']}, validation perplexity "
                    f"{row['validation_perplexity']} (measured)"
                )

        return work_through(work, work.log.with_name(CHECKPOINT), checkpoint_s=CHECKPOINT_S, watch=watch).elapsed_s
