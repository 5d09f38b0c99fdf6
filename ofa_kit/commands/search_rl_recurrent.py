"""Search of a recurrent cell by NAS-RL, whose children are trained from scratch, and the training of what it finds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_kit.commands.search_recurrent import RecurrentFound, open_run, search_and_train
from ofa_kit.commands.search_recurrent_models import LOG, SEARCH, finish, seed_of
from ofa_kit.data.text_batches import columns
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.nas.nas_rl.recurrent_recipe import RlRecurrentRecipe
from ofa_kit.nas.nas_rl.recurrent_search import Children, TreeSearch, fresh_policy
from ofa_kit.nas.recurrent.latency import MeasuredCells
from ofa_kit.nas.recurrent.run import RecurrentRun
from ofa_kit.nas.recurrent.tree import TreeGenotype
from ofa_kit.nas.recurrent.work import generator_of
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter, Silent

LATENCY = "latency.csv"


def search_rl_recurrent(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    lstm: bool = True,
    reporter: Reporter | None = None,
) -> RecurrentFound:
    """Search a cell by NAS-RL and go on as `search_and_train`; on the recipe's device, if it has one, all is timed."""
    reporter = reporter or Silent()
    run = open_run(values, folder, RlRecurrentRecipe, source=source, resume=resume)
    device = DeviceProfile.load(run.recipe.device) if run.recipe.device else None
    return search_and_train(run, search_by_rl, lstm=lstm, device=device, reporter=reporter)


def search_by_rl(run: RecurrentRun[RlRecurrentRecipe], reporter: Reporter) -> TreeGenotype:
    """Search a cell by NAS-RL in RUN/search, from where an earlier call stood."""
    recipe, seed = run.recipe.search, seed_of(run.recipe, SEARCH)
    train = columns(run.text.train, recipe.child.batch).to(run.device)
    validation = columns(run.text.validation, run.recipe.evaluation_batch).to(run.device)
    children = Children(run.text.info.words, train, validation, recipe.child, seed, run.device)
    policy = fresh_policy(recipe, generator_of(run.recipe.seed, SEARCH))
    log = run.part("search") / LOG
    search = TreeSearch(policy, children, recipe, log, seed, _latency(run))
    reporter.say(
        f"searching: {recipe.rounds} rounds of {recipe.children} children of {recipe.base} leaves and "
        f"{recipe.child.hidden} features, {run.device.type}"
    )
    finish(search, log, "search", reporter, checkpoint_s=0)
    return search.genotype


def _latency(run: RecurrentRun[RlRecurrentRecipe]) -> MeasuredCells | None:
    recipe = run.recipe
    if recipe.search.reward.latency_term is None or recipe.device is None:
        return None
    times = Times.open(run.part("search") / LATENCY, backend_for(DeviceProfile.load(recipe.device)))
    return MeasuredCells(times, hidden=recipe.train.hidden, words=run.text.info.words)
