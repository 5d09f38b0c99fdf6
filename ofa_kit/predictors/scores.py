"""How good predictions are: MAPE, share within a tolerance, Kendall's tau."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def mape(predicted: Values, measured: Values) -> float:
    """Return the mean absolute error in percent of the measured value."""
    return float(np.mean(np.abs(predicted / measured - 1)) * 100)


def within(predicted: Values, measured: Values, percent: float) -> float:
    """Return the share (0..1) of predictions within `percent` of the measured value."""
    return float(np.mean(np.abs(predicted / measured - 1) * 100 <= percent))


def rmse(predicted: Values, measured: Values) -> float:
    """Return the root mean squared error in the unit of the values."""
    return float(np.sqrt(np.mean((predicted - measured) ** 2)))


def kendall_tau(predicted: Values, measured: Values) -> float:
    """Return the rank correlation in -1..1; NaN when one side is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(predicted, measured).statistic)
