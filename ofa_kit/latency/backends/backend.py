"""What a backend is: a runtime that loads an ONNX model and runs it, for one device profile."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ofa_kit.latency.device import DeviceProfile, Precision
from ofa_kit.latency.protocol import Runnable, Timer

Array = NDArray[np.float32]


class Model(Runnable, Protocol):
    """A loaded model; calling it runs one inference on fixed random inputs that stay bound, and waits for its end."""

    def predict(self, batches: Iterable[Array]) -> Array:
        """Return the logits (N, classes) of image batches (n, C, R, R), each of the profile's batch."""
        ...


class Backend(Protocol):
    """A runtime made ready for one device profile.

    Making one raises BackendError when a package, a provider or a driver is missing; the message says what to do.
    """

    precisions: tuple[Precision, ...]
    """Precisions that it can load models in."""
    profile: DeviceProfile
    versions: Mapping[str, str]
    """Versions of the runtime, and of driver and libraries where there are any, by name."""
    facts: Mapping[str, str]
    """What else identifies the device that runs the models, beside the machine: GPU, clocks."""
    timer: Timer
    """How one run of a loaded model is timed on this device."""

    def load(self, model: bytes) -> Model:
        """Return a loaded model for a serialized fp32 ONNX model, in the profile's precision.

        A BackendError says why the runtime refuses it.
        """
        ...


@runtime_checkable
class ProfilingBackend(Backend, Protocol):
    """A backend that can say how long each node of a graph takes."""

    def kernel_times_ms(
        self, model: bytes, runs: int, on_run: Callable[[], None] = lambda: None
    ) -> dict[str, list[float]]:
        """Return milliseconds by node name, one a run, warm-up left out."""
        ...
