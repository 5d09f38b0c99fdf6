import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from ofa_kit.predictors.scores import kendall_tau


@pytest.mark.parametrize("ties", [False, True])
def test_tau_is_scipys(rng, ties):
    for count in (2, 3, 30):
        predicted, measured = rng.normal(size=(2, count))
        if ties:
            predicted, measured = predicted.round(), measured.round()
        assert kendall_tau(predicted, measured) == pytest.approx(kendalltau(predicted, measured).statistic, nan_ok=True)


def test_a_constant_side_has_no_rank_correlation(rng):
    assert math.isnan(kendall_tau(np.ones(5), rng.normal(size=5)))
    assert math.isnan(kendall_tau(rng.normal(size=5), np.ones(5)))
