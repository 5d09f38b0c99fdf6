"""Searches of a space whose every subnet is known: the true optimum, monotony, odd budgets, and no hang."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_kit.arch.features import macs_of, params_of
from ofa_kit.arch.presets import preset
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError
from ofa_kit.search.budget import Budget, Objective
from ofa_kit.search.costs import model_mb, peak_memory_mb
from ofa_kit.search.evolution import Evolution
from ofa_kit.search.exact import Exact
from ofa_kit.search.guided import Guided
from ofa_kit.search.ladder import Ladder
from ofa_kit.search.local_search import LocalSearch
from ofa_kit.search.pareto import Pareto
from ofa_kit.search.population import Counted
from ofa_kit.search.random_search import RandomSearch

SPACE = preset("mbv3-tiny")
QUICK = {
    "guided": Guided(
        evolution=Evolution(population=40, generations=3, parents=10),
        **{"samples": 100, "rounds": 2, "width": 2, "children": 40, "keep": 20, "steps": 60, "polished": 1},
    ),
    "evolution": Evolution(population=40, generations=5, parents=10),
    "pareto": Pareto(samples=100, population=30, generations=3, shares=8),
    "local": LocalSearch(samples=50, starts=1),
    "exact": Exact(samples=150, shares=8, steps=100),
    "random": RandomSearch(samples=200),
}

TINY = {
    "guided": Guided(
        evolution=Evolution(population=20, generations=1, parents=5),
        **{"samples": 50, "rounds": 1, "width": 1, "children": 20, "keep": 10, "steps": 40, "polished": 0},
    ),
    "evolution": Evolution(population=20, generations=2, parents=5),
    "pareto": Pareto(samples=50, population=20, generations=2, shares=4),
    "local": LocalSearch(samples=20, starts=1, pairs=False),
    "exact": Exact(samples=60, shares=4, steps=50),
    "random": RandomSearch(samples=50),
}


@lru_cache
def everything():
    every = np.indices(SPACE.choice_counts.tolist()).reshape(SPACE.genome_length, -1).T
    return np.unique(SPACE.canonical(every), axis=0)


def latency_of(genomes):
    """Not a sum over layers: small networks wait for memory."""
    return 0.02 + macs_of(SPACE, genomes) / 1e6 + 0.1 * np.sqrt(params_of(SPACE, genomes) / 1e6)


def other_latency_of(genomes):
    return 0.01 + params_of(SPACE, genomes) / 1e6 + 0.02 * (genomes[:, 0] + 1)


def top1_of(genomes):
    """Saturating, with tastes of each gene and of neighbouring ones together."""
    taste = np.sin(3 * np.arange(genomes.shape[1]))
    pairs = (genomes[:, 1:] * genomes[:, :-1]) @ np.cos(5 * np.arange(genomes.shape[1] - 1))
    return 70 + 4 * np.log(macs_of(SPACE, genomes) / 1e6) + 0.4 * genomes @ taste + 0.2 * pairs


def objective(**limits):
    others = {"other": other_latency_of}
    return Objective(SPACE, Budget(**limits), top1_of, latency_of, others)


def limit_at(share):
    latency = np.sort(latency_of(everything()))
    return float(latency[int(share * (len(latency) - 1))])


COSTS = {
    "latency_ms": latency_of,
    "macs_m": lambda genomes: macs_of(SPACE, genomes) / 1e6,
    "params_m": lambda genomes: params_of(SPACE, genomes) / 1e6,
    "model_mb": lambda genomes: model_mb(SPACE, genomes),
    "peak_memory_mb": lambda genomes: peak_memory_mb(SPACE, genomes),
}


@given(share=st.floats(0, 1), seed=st.integers(0, 100))
@settings(max_examples=8, deadline=None)
def test_guided_search_finds_the_true_optimum(share, seed):
    goal = objective(latency_ms=limit_at(share))
    found = Guided(rounds=6).search(goal, np.random.default_rng(seed))[0]
    assert found.predicted_top1 == pytest.approx(goal.score(everything()).max(), abs=1e-9)


@pytest.mark.parametrize("name", ["random", "pareto", "ladder"])
@given(shares=st.lists(st.floats(0, 1), min_size=2, max_size=4), seed=st.integers(0, 100))
@settings(max_examples=6, deadline=None)
def test_a_wider_budget_never_gives_a_worse_answer_by_construction(name, shares, seed):
    searcher = Ladder(inner=TINY["evolution"], ratio=1.2) if name == "ladder" else QUICK[name]
    limits = sorted(map(limit_at, shares))
    goals = [objective(latency_ms=limit) for limit in limits]
    bests = [searcher.search(goal, np.random.default_rng(seed))[0].predicted_top1 for goal in goals]
    assert bests == sorted(bests)


def test_an_evolution_that_stands_still_begins_anew_and_finds_the_optimum_more_often():
    def found(patience):
        searcher = Evolution(population=20, generations=60, parents=5, patience=patience)
        goals = [objective(latency_ms=limit_at(share)) for share in (0.3, 0.6)]
        bests = [goal.score(everything()).max() for goal in goals]
        return np.array(
            [
                [
                    searcher.search(goal, np.random.default_rng(seed))[0].predicted_top1 >= best - 1e-9
                    for seed in range(20)
                ]
                for goal, best in zip(goals, bests, strict=True)
            ]
        ).sum()

    assert found(15) > found(0)


@pytest.mark.parametrize("name", QUICK)
def test_an_exactly_tight_budget_is_met_and_a_hair_less_is_refused(name):
    latency = latency_of(everything())
    found = QUICK[name].search(objective(latency_ms=float(latency.min())), np.random.default_rng(0))
    assert found[0].predicted_latency_ms == pytest.approx(latency.min())
    with pytest.raises(InfeasibleBudgetError, match="the fastest takes"):
        QUICK[name].search(objective(latency_ms=float(latency.min()) * 0.9999), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["guided", "local"])
def test_a_loose_budget_gives_what_no_budget_gives(name):
    loose, none = (QUICK[name].search(o, np.random.default_rng(0))[0] for o in (objective(latency_ms=1e9), objective()))
    assert loose.predicted_top1 == none.predicted_top1 == pytest.approx(top1_of(everything()).max())


def test_random_budgets_end_with_an_answer_within_them_or_a_refusal():
    rng = np.random.default_rng(0)
    costs = {name: cost_of(everything()) for name, cost_of in COSTS.items()} | {"min_top1": -top1_of(everything())}
    names, refused = [*TINY] + [name for name in TINY if name != "exact"] * 3, 0  # HiGHS takes its time
    for index in range(1000):
        chosen = rng.choice(list(COSTS), size=rng.integers(1, 3), replace=False)
        limits = {name: float(np.quantile(costs[name], rng.random() ** 2)) for name in chosen}
        if rng.random() < 0.1:
            limits = {name: limit * rng.choice([1e-9, 0.9, 1e9]) for name, limit in limits.items()}
        if rng.random() < 0.1:
            limits["min_top1"] = float(rng.uniform(40, 80))
        goal = objective(**limits)
        try:
            found = TINY[names[index % len(names)]].search(goal, rng)
        except InfeasibleBudgetError:
            refused += 1
            inside = [costs[name] <= (-limit if name == "min_top1" else limit) for name, limit in limits.items()]
            assert not np.logical_and.reduce(inside).any()
        else:
            assert goal.score(SPACE.encode(found[0].arch)[None])[0] >= 0
    assert 0 < refused < 500


def test_two_devices_are_met_at_once():
    latency, other = limit_at(0.5), float(np.quantile(other_latency_of(everything()), 0.2))
    goal = objective(latency_ms=latency, other_latencies_ms={"other": other})
    found = Guided().search(goal, np.random.default_rng(0))[0]
    assert found.predicted_latency_ms <= latency
    assert found.other_latencies_ms["other"] <= other
    assert found.predicted_top1 == pytest.approx(goal.score(everything()).max())


def test_the_lowest_latency_for_a_required_top1():
    wanted = float(np.quantile(top1_of(everything()), 0.9))
    goal = objective(min_top1=wanted)
    found = Guided().search(goal, np.random.default_rng(0))[0]
    assert found.predicted_top1 >= wanted
    assert found.predicted_latency_ms == pytest.approx(latency_of(everything())[top1_of(everything()) >= wanted].min())


def test_a_top1_that_nothing_reaches_names_the_most_accurate():
    best = top1_of(everything()).max()
    with pytest.raises(InfeasibleBudgetError, match=rf"most accurate within the limits has {best:.2f} %.*--min-top1"):
        QUICK["guided"].search(objective(min_top1=best + 1), np.random.default_rng(0))


def test_any_further_cost_can_be_limited():
    goal = Objective(SPACE, Budget(), top1_of, latency_of, other_costs={"depth": (lambda g: 1.0 + g[:, 1], 1.5)})
    assert Guided().search(goal, np.random.default_rng(0))[0].arch.stages[0].depth == SPACE.stages[0].depths[0]


def test_feasibility_is_searched_where_the_smallest_subnets_are_not_the_fastest():
    def odd(genomes):
        return 1.0 + (SPACE.choice_counts - 1 - genomes).sum(axis=1)

    goal = Objective(SPACE, Budget(latency_ms=float(odd(everything()).min())), top1_of, odd)
    assert QUICK["evolution"].search(goal, np.random.default_rng(0))[0].predicted_latency_ms == odd(everything()).min()


def test_a_device_without_a_predictor_is_named():
    with pytest.raises(OfaKitError, match="no latency predictor of board"):
        Objective(SPACE, Budget(other_latencies_ms={"board": 1.0}), top1_of, latency_of)


def test_the_front_holds_what_no_other_beats_and_counts_what_it_asks():
    counted = Counted(top1_of)
    front = Pareto(samples=200, generations=20).front(
        Objective(SPACE, Budget(), counted, latency_of), np.random.default_rng(0)
    )
    latency, top1 = (np.array([getattr(c, k) for c in front]) for k in ("predicted_latency_ms", "predicted_top1"))
    assert (np.diff(latency) > 0).all()
    assert (np.diff(top1) > 0).all()
    assert 1000 < counted.genomes < 200 + 32 * len(SPACE.resolutions) + 20 * 200 + len(front)
