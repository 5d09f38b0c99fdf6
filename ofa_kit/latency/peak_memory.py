"""A process that measures peak memory: each model is loaded and run in a fork of its own, and only its growth counts.

Reads {"device": profile, "models": [file, ...]} as JSON from standard input and writes a list of MiB.
"""

import json
import os
import resource
import sys
from pathlib import Path

from ofa_kit.config import parse
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.backends.backend import Backend
from ofa_kit.latency.device import DeviceProfile

RUNS = 3
UNIT = 2**20 if sys.platform == "darwin" else 2**10
"""ru_maxrss counts bytes on macOS and KiB elsewhere."""


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    backend = backend_for(parse(DeviceProfile, request["device"], "device"))
    models = [Path(name).read_bytes() for name in request["models"]]
    backend.load(models[0])()  # brings in the libraries that every process with this runtime has
    json.dump([_growth_mib(backend, model) for model in models], sys.stdout)


def _growth_mib(backend: Backend, model: bytes) -> float:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        loaded = backend.load(model)
        for _ in range(RUNS):
            loaded()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writer, str(grown / UNIT).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return float(text)


if __name__ == "__main__":
    main()
