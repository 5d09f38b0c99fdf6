"""Linear algebra on one thread: its matrices are small, and where other work has the cores, threads of BLAS that wait
for each other take many times as long as one alone (a fit of 100 rows beside a busy core: 82 s on two, 1.4 s on one).
"""

from contextlib import AbstractContextManager
from functools import lru_cache

import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController

LIBRARIES = np.linalg, scipy.linalg
"""What brings a BLAS of its own; only what is loaded can be limited."""


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context in which BLAS has one thread in this process."""
    limited: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limited


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    """Return what found the BLAS libraries; looking for them takes longer than a prediction."""
    return ThreadpoolController()
