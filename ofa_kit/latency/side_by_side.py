"""One session of timing: models and a reference network loaded side by side in one process."""

from collections.abc import Mapping

import numpy as np

from ofa_kit.errors import BackendError
from ofa_kit.latency.backends.backend import Backend
from ofa_kit.latency.protocol import REFERENCE, Measurement, measure

REFERENCE_TOLERANCE = 0.05
"""Sessions whose reference network is further off than this do not count as converged."""


def time_side_by_side(
    backend: Backend, models: Mapping[str, bytes], reference: bytes, *, seed: int
) -> tuple[dict[str, Measurement], dict[str, str], float]:
    """Return measurements by name, the errors of models that the backend refuses, and the reference's time in ms."""
    loaded, failed = {}, {}
    for name, model in models.items():
        try:
            loaded[name] = backend.load(model)
        except BackendError as error:
            failed[name] = str(error)
    loaded[REFERENCE] = backend.load(reference)
    found = measure(loaded, np.random.default_rng(seed), backend.profile.protocol, timed=backend.timer)
    reference_ms = found.pop(REFERENCE).latency_ms
    return found, failed, reference_ms
