"""Search of a recurrent cell by ENAS, and the training of what it finds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.commands.search_recurrent import RecurrentFound, open_run, search_and_train
from ofa_kit.commands.search_recurrent_models import LOG, SEARCH, finish, seed_of
from ofa_kit.data.text_batches import columns
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.nas.enas.recurrent_cell import SharedCell
from ofa_kit.nas.enas.recurrent_recipe import EnasRecurrentRecipe
from ofa_kit.nas.enas.recurrent_search import EnasTextWork, Judged, fresh_policy
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype, write_genotype
from ofa_kit.nas.recurrent.language_model import LanguageModel
from ofa_kit.nas.recurrent.latency import MeasuredCells, PredictedCells
from ofa_kit.nas.recurrent.reward import refuse_without_reward
from ofa_kit.nas.recurrent.run import RecurrentRun
from ofa_kit.nas.recurrent.work import generator_of
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter, Silent

DERIVED, LATENCY = "derived.csv", "latency.csv"
DERIVED_COLUMNS = ("rank", "genotype", "validation_perplexity", "latency_ms_predicted", "reward")


def search_enas_recurrent(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    lstm: bool = True,
    reporter: Reporter | None = None,
) -> RecurrentFound:
    """Search a cell by ENAS and go on as `search_and_train`; on the recipe's device, if it has one, all is timed."""
    reporter = reporter or Silent()
    run = open_run(values, folder, EnasRecurrentRecipe, source=source, resume=resume)
    device = DeviceProfile.load(run.recipe.device) if run.recipe.device else None
    return search_and_train(run, search_by_enas, lstm=lstm, device=device, reporter=reporter)


def search_by_enas(run: RecurrentRun[EnasRecurrentRecipe], reporter: Reporter) -> RecurrentGenotype:
    """Search a cell by ENAS in RUN/search, from where an earlier call stood."""
    recipe, device, words = run.recipe.search, run.device, run.text.info.words
    generator, seed = generator_of(run.recipe.seed, SEARCH), seed_of(run.recipe, SEARCH)
    cell = SharedCell(recipe.nodes - 1, recipe.hidden, generator, init_range=recipe.init_range)
    model = LanguageModel(cell, words, generator, init_range=recipe.init_range).to(device)
    policy = fresh_policy(recipe, generator)
    train, validation = (columns(part, recipe.batch).to(device) for part in (run.text.train, run.text.validation))
    log = run.part("search") / LOG
    work = EnasTextWork(model, policy, train, validation, recipe, log, seed, _latency(run))
    reporter.say(f"searching: {recipe.nodes} nodes, {model.params:,} shared weights, {device.type}")
    finish(work, log, "search", reporter)
    derived = work.derived()
    _keep(derived, log.with_name(DERIVED))
    best, latencies = derived[0], [each.latency_ms for each in derived if each.latency_ms is not None]
    refuse_without_reward(recipe.reward, best.reward, min(latencies, default=None))
    reporter.say(
        f"best of {len(derived)} cells: validation perplexity {best.perplexity:.2f} (measured, shared weights)"
    )
    return best.genotype


def _latency(run: RecurrentRun[EnasRecurrentRecipe]) -> PredictedCells | None:
    recipe = run.recipe
    if recipe.search.reward.latency_term is None or recipe.device is None:
        return None
    times = Times.open(run.part("search") / LATENCY, backend_for(DeviceProfile.load(recipe.device)))
    measured = MeasuredCells(times, hidden=recipe.train.hidden, words=run.text.info.words)
    return PredictedCells(measured, recipe.search.nodes)


def _keep(derived: list[Judged], path: Path) -> None:
    rows = [
        {
            "rank": rank,
            "genotype": write_genotype(each.genotype),
            "validation_perplexity": f"{each.perplexity:.4f}",
            "latency_ms_predicted": "" if each.latency_ms is None else f"{each.latency_ms:.5f}",
            "reward": f"{each.reward:.6f}",
        }
        for rank, each in enumerate(derived, start=1)
    ]
    storage.keep_rows(path, DERIVED_COLUMNS, rows)
