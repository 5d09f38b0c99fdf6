"""demo: the whole way on embedded data: train, profile, specialize for three budgets."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa_kit import storage
from ofa_kit.commands.deploy import Deployment
from ofa_kit.commands.measure_accuracy import measure_accuracy
from ofa_kit.commands.profile import Profiled, profile
from ofa_kit.commands.specialize import Specializer
from ofa_kit.commands.train_supernet import train_supernet
from ofa_kit.config import find_profile, read_yaml
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.progress import Reporter, Silent
from ofa_kit.search.budget import Budget
from ofa_kit.training.run import Run

SUBNETS = 40
BUDGETS = {"fast": 0.15, "medium": 0.4, "best": 0.8}
"""Share of the way from the fastest to the slowest measured subnet."""


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    profiled: Profiled
    ends: dict[str, Deployment]
    specialized: dict[str, tuple[Budget, Deployment]]
    elapsed_s: float


def demo(folder: Path, *, recipe: str = "digits", device: str = "cpu-ort", reporter: Reporter | None = None) -> Demo:
    """Run everything in `folder`, replacing an earlier demo's work; the budgets follow from this machine's times."""
    reporter = reporter or Silent()
    start_s = time.monotonic()
    _clear(storage.writable_folder(folder))
    path = find_profile("recipes", "recipe", recipe)
    run = train_supernet(read_yaml(path), folder / "runs" / "demo", source=str(path), reporter=reporter)
    tables, target = folder / "latency_tables", DeviceProfile.load(device)
    profiled = profile(target, run.space, tables=tables, reporter=reporter)
    measure_accuracy(run, SUBNETS, reporter=reporter)
    specializer = Specializer.open(run, target, tables=tables, reporter=reporter)
    ends = {
        "largest": specializer.export(run.space.largest(), folder / "models" / "largest"),
        "smallest": specializer.export(run.space.smallest(), folder / "models" / "smallest"),
    }
    specialized = {}
    for name, budget in _budgets(profiled).items():
        specialized[name] = (budget, specializer.specialize(budget, folder / "models" / name))
    found = Demo(profiled, ends, specialized, time.monotonic() - start_s)
    storage.write_text(folder / "summary.md", summary(run, found))
    storage.write_text(folder / "summary.json", json.dumps(summary_values(found), indent=2) + "\n")
    return found


def summary(run: Run, found: Demo) -> str:
    """Return the demo's results as Markdown."""
    scores = found.profiled.predictor.held_out
    lines = [
        f"# {run.space.name} on {found.profiled.table.provenance['device']['name']}",
        "",
        f"{run.space.size():,} subnets trained at once on {run.info.data}; {found.elapsed_s:.0f} s for everything.",
        f"Latency predictor, leave-one-out over {scores['n']:.0f} measured subnets: {scores['mape']:.1f} % mean error.",
        "",
        "| subnet | budget ms | measured ms | p50 ms | predicted ms | test top-1 ONNX % | PyTorch % | predicted % | "
        "MACs M |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, budget, made in _rows(found):
        measured, predicted = made.measured, made.predicted
        lines.append(
            f"| {name} | {budget} | {measured['latency_ms']:.4f} | {measured['latency_p50_ms']:.4f} | "
            f"{predicted['latency_ms']:.4f} | {measured['test_top1_onnx']:.2f} | {measured['test_top1_pytorch']:.2f} | "
            f"{predicted['top1']:.2f} | {int(str(made.facts['macs'])) / 1e6:.2f} |"
        )
    return "\n".join(lines) + "\n"


def summary_values(found: Demo) -> dict[str, object]:
    """Return the demo's results as plain values."""
    return {
        name: {
            "budget_ms": budget or None,
            "model": str(made.model_path),
            "arch": str(made.arch),
            "measured": made.measured,
            "predicted": made.predicted,
        }
        for name, budget, made in _rows(found)
    }


def _rows(found: Demo) -> list[tuple[str, str, Deployment]]:
    rows = [(name, "", made) for name, made in found.ends.items()]
    return rows + [(name, f"{budget.latency_ms:g}", made) for name, (budget, made) in found.specialized.items()]


def _budgets(profiled: Profiled) -> dict[str, Budget]:
    times_ms = np.array([found.latency_ms for _, found in profiled.table.subnets.values()])
    low, high = times_ms.min(), times_ms.max()
    return {name: Budget(latency_ms=float(f"{low + share * (high - low):.3g}")) for name, share in BUDGETS.items()}


def _clear(folder: Path) -> None:
    """Remove what an earlier demo left there; a folder with other work in it is refused."""
    marker, left = folder / ".ofa-kit-demo", [folder / name for name in ("runs", "latency_tables", "models")]
    if any(path.exists() for path in left) and not marker.exists():
        raise OfaKitError(f"'{folder}' holds work that is no demo's; give an empty folder: --folder NAME")
    storage.write_text(marker, "made by `ofa-kit demo`, which removes runs/, latency_tables/ and models/ here\n")
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
