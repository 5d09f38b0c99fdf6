"""Whether latency tables of this machine repeat, and predict subnets that they have never seen.

    python tools/bench/latency_cpu.py ofa-mbv3-w1.0 --resolutions 224 --folder FOLDER

Profiles the space twice, each time in a process of its own, compares the two tables row by row, then times random
subnets that neither table holds and sets the first table's predictions beside them. `--folder` keeps the tables; what
is there already is not measured again. Times need an idle machine.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from ofa_kit.arch.space_file import find_space
from ofa_kit.commands.compare_tables import compare_tables
from ofa_kit.commands.profile import at_resolutions, fit, measure_in_sessions
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import load_average
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors import scores


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space")
    parser.add_argument("--device", default="cpu-ort")
    parser.add_argument("--resolutions", default="", help="such as 224 or 160,224; default: all")
    parser.add_argument("--test-subnets", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the tables are kept; default: nowhere")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        judge(arguments, arguments.folder or Path(temporary))


def judge(arguments: argparse.Namespace, folder: Path) -> None:
    """Print how far the two tables agree and how good the first one's predictions are."""
    device, space = DeviceProfile.load(arguments.device), find_space(arguments.space)
    roots = [folder / "a", folder / "b"]
    for root in roots:
        command = [sys.executable, "-m", "ofa_kit", "profile", "--device", arguments.device]
        command += ["--space", arguments.space, "--tables", str(root)]
        command += ["--resolutions", arguments.resolutions] if arguments.resolutions else []
        start_s = perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(f"{done.stdout}profiled in {perf_counter() - start_s:.0f} s, load {load_average():.2f}")
    a, b = (root / device.table_folder / f"{space.name}.csv" for root in roots)
    for rows in compare_tables(a, b).agreements:
        print(
            f"{rows.rows} {rows.kind}s of two processes: differ by {rows.median_difference:.2f} % (median), "
            f"{rows.without_ratio:.2f} % without the ratio B / A, "
            f"{rows.largest_difference:.1f} % (largest), B / A {rows.ratio:.3f}, tau {rows.tau:.3f}"
        )
    resolutions = [int(part) for part in arguments.resolutions.split(",")] if arguments.resolutions else None
    part = at_resolutions(space, resolutions)
    tables = [LatencyTable.open(root, device, space) for root in roots]
    known = {key for table in tables for key in table.subnets}
    rng = np.random.default_rng(arguments.seed)
    archs = [arch for arch in (part.sample(rng) for _ in range(4 * arguments.test_subnets)) if arch.key not in known]
    archs = list({arch.key: arch for arch in archs}.values())[: arguments.test_subnets]
    found = measure_in_sessions(space, backend_for(device), archs)[0]
    measured = np.array([found[arch].latency_ms for arch in archs])
    predicted, error = fit(part, tables[0]).predict(np.stack([part.encode(arch) for arch in archs]))
    print(
        f"{len(archs)} random subnets that no table holds, {measured.min():.3f}..{measured.max():.3f} ms (measured): "
        f"predicted with MAPE {scores.mape(predicted, measured):.2f} %, "
        f"within 5 % {100 * scores.within(predicted, measured, 5):.0f} %, tau "
        f"{scores.kendall_tau(predicted, measured):.3f}, in the error bar "
        f"{100 * float(np.mean(np.abs(predicted - measured) <= error)):.0f} %; "
        f"{sum(value.converged for value in found.values())} of {len(found)} measurements converged"
    )


if __name__ == "__main__":
    main()
