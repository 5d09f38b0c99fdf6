"""The runner's command line: check the kit, measure what is still missing, say where the results are."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .kit import FORMAT, Kit, RunnerError
from .machine import fingerprint

PACKAGES = ("numpy", "onnxruntime")


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """Run the kit in `folder` and return the exit code: 0, or 2 after an error that a line on stderr explains."""
    options = _parser(folder).parse_args(arguments)
    try:
        _require_packages()
        _run(folder, options.results)
        sys.stdout.write(f"{options.results}\n")
    except RunnerError as error:
        _say(f"error: {error}")
        return 2
    except BrokenPipeError:
        os._exit(1)  # nobody reads any more: even the farewell of a normal exit would fail
    except OSError as error:
        _say(f"error: {error.filename or 'file system'}: {error.strerror or error}; mend it and run again")
        return 2
    except KeyboardInterrupt:
        _say("stopped; run again to go on")
        return 130
    return 0


def _parser(folder: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure the networks of this kit on this machine. Needs Linux or macOS, Python 3.8 or newer, "
        "numpy and onnxruntime. Running it again goes on where it stopped; what is measured stays.",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=folder / "results",
        metavar="FOLDER",
        help="folder of results.csv and results.json (default: results, beside run.py)",
    )
    return parser


def _require_packages() -> None:
    for name in PACKAGES:
        if find_spec(name) is None:
            raise RunnerError(
                f"package {name} is not installed; run `{sys.executable} -m pip install {' '.join(PACKAGES)}`"
            )


def _run(folder: Path, results_folder: Path) -> None:
    from ...protocol import TimingProtocol, load_average
    from .measuring import measure_kit, now
    from .results import Results
    from .sessions import Runtime

    kit = Kit.open(folder)
    manifest = kit.manifest
    runtime = Runtime(manifest["device"])
    facts = {
        "format": FORMAT,
        "kit": kit.key,
        "made_by": manifest["made_by"],
        "space": manifest["space"],
        "device": manifest["device"],
        "plan": manifest["plan"],
        "machine": fingerprint(),
        "versions": runtime.versions,
        "load": f"{load_average():.2f}",
        "begun_at": now(),
    }
    protocol = TimingProtocol(**manifest["device"]["protocol"])
    results = Results(results_folder, manifest["columns"], facts, protocol)
    measure_kit(kit, results, runtime, protocol, _say)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
