"""Every searcher passes one list, on a problem whose true values are known."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_kit.arch.features import macs_of, params_of
from ofa_kit.arch.presets import preset
from ofa_kit.errors import InfeasibleBudgetError, OfaKitError
from ofa_kit.search.algorithms import ALGORITHMS
from ofa_kit.search.budget import Budget, Objective

SPACE = preset("mbv3-small-images")
SEARCHERS = pytest.mark.parametrize("searcher", ALGORITHMS.values(), ids=list(ALGORITHMS))
INFORMED = pytest.mark.parametrize(
    "searcher", [s for n, s in ALGORITHMS.items() if n != "random"], ids=[n for n in ALGORITHMS if n != "random"]
)


def top1_of(genomes):
    """Grows with MACs and parameters, saturating, with a preference that differs between genes."""
    taste = np.sin(np.arange(genomes.shape[1]))
    return (
        60
        + 4 * np.log(macs_of(SPACE, genomes) / 1e6)
        + 2 * np.log(params_of(SPACE, genomes) / 1e6)
        + 0.2 * genomes @ taste
    )


def latency_of(genomes):
    return 0.05 + macs_of(SPACE, genomes) / 2e7


@lru_cache
def random_best():
    return objective(0.3).score(SPACE.sample_genomes(100_000, np.random.default_rng(1))).max()


def objective(latency_ms):
    return Objective(SPACE, Budget(latency_ms=latency_ms), top1_of, latency_of)


@SEARCHERS
def test_candidates_meet_the_budget_are_different_and_sorted(searcher):
    found = searcher.search(objective(0.3), np.random.default_rng(0), top=10)
    assert len(found) == len({c.arch.key for c in found}) == 10
    assert all(c.predicted_latency_ms <= 0.3 and SPACE.contains(c.arch) for c in found)
    assert [c.predicted_top1 for c in found] == sorted((c.predicted_top1 for c in found), reverse=True)


@SEARCHERS
def test_the_same_seed_gives_the_same_answer(searcher):
    answers = [searcher.search(objective(0.3), np.random.default_rng(5), top=3) for _ in range(2)]
    assert answers[0] == answers[1]


@INFORMED
def test_it_beats_random_subnets_at_ten_times_the_number(searcher):
    goal = objective(0.3)
    best = searcher.search(goal, np.random.default_rng(0))[0].predicted_top1
    assert best > random_best()


@SEARCHERS
def test_a_wider_budget_never_gives_a_worse_best(searcher):
    bests = [
        searcher.search(objective(ms), np.random.default_rng(0))[0].predicted_top1 for ms in (0.14, 0.2, 0.3, 0.5, 2.0)
    ]
    assert bests == sorted(bests)


@SEARCHERS
def test_a_budget_nothing_meets_says_what_the_fastest_takes(searcher):
    fastest = latency_of(SPACE.encode(SPACE.smallest())[None])[0]
    with pytest.raises(InfeasibleBudgetError, match=rf"the fastest takes {fastest:.3f} ms \(predicted\)"):
        searcher.search(objective(fastest * 0.9), np.random.default_rng(0))


@SEARCHERS
@given(share=st.floats(0.0, 1.5), seed=st.integers(0, 1000))
@settings(max_examples=3, deadline=None)
def test_any_budget_ends_with_an_answer_within_it_or_a_refusal(searcher, share, seed):
    low, high = (latency_of(SPACE.encode(a)[None])[0] for a in (SPACE.smallest(), SPACE.largest()))
    goal = objective(float(max(1e-6, low * 0.8 + share * (high - low))))
    try:
        found = searcher.search(goal, np.random.default_rng(seed))
    except InfeasibleBudgetError:
        assert goal.budget.latency_ms < low
    else:
        assert found[0].predicted_latency_ms <= goal.budget.latency_ms


@SEARCHERS
def test_a_macs_budget_holds_too(searcher):
    goal = Objective(SPACE, Budget(macs_m=4.0), top1_of, latency_of)
    assert searcher.search(goal, np.random.default_rng(0))[0].macs_m <= 4.0


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_no_positive_number_is_refused(value):
    with pytest.raises(OfaKitError, match="--latency-ms must be above 0"):
        Budget(latency_ms=value)
