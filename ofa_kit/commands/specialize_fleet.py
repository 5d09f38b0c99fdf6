"""specialize --fleet: many devices and budgets in one go, one deployment folder each; measurements are shared."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ofa_kit import storage
from ofa_kit.commands.deploy import Deployment
from ofa_kit.commands.deploy_conversion import Conversion
from ofa_kit.commands.profile import TABLES
from ofa_kit.commands.specialize import Specializer
from ofa_kit.commands.specialize_site import Percentile, Safety, Site
from ofa_kit.commands.specialize_top1 import TrainedSubnets
from ofa_kit.config import parse
from ofa_kit.errors import OfaKitError, RecipeError
from ofa_kit.latency.device import DeviceProfile, Precision
from ofa_kit.progress import Reporter, Silent
from ofa_kit.search.algorithms import DEFAULT, Algorithm
from ofa_kit.search.budget import Budget
from ofa_kit.training.run import Run

SUMMARY = "fleet.csv"
COLUMNS = (
    "device", "budget", "folder", "arch_key", "top1_measured", "top1_predicted", "latency_ms_measured",
    "latency_ms_predicted", "test_top1_onnx", "error",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Member:
    """One device of a fleet and what it asks for: each latency is a budget of its own."""

    device: str
    latency_ms: tuple[float, ...] | float
    macs_m: float = float("inf")
    params_m: float = float("inf")
    model_mb: float = float("inf")
    peak_memory_mb: float = float("inf")
    percentile: Percentile = "floor"
    headroom: float = 0.0
    precision: Precision | None = None
    max_accuracy_drop: float = 1.0

    @property
    def budgets(self) -> list[Budget]:
        times = self.latency_ms if isinstance(self.latency_ms, tuple) else (self.latency_ms,)
        return [
            Budget(
                latency_ms=ms,
                macs_m=self.macs_m,
                params_m=self.params_m,
                model_mb=self.model_mb,
                peak_memory_mb=self.peak_memory_mb,
            )
            for ms in times
        ]


def read_fleet(path: Path) -> list[Member]:
    """Read a fleet's YAML file, a list of members; a RecipeError says what is wrong in it."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, list) or not values:
        raise RecipeError(f"'{path}' must be a list of '- device: NAME' with a latency_ms each")
    members = [parse(Member, _plain(item, f"{path}, member {n}"), f"{path}, member {n}")
               for n, item in enumerate(values, start=1)]  # fmt: skip
    for member in members:
        _ = member.budgets, _safety(member), _conversion(member)  # refuses what is no budget before any work
    return members


def specialize_fleet(
    run: Run,
    members: Sequence[Member],
    folder: Path,
    *,
    algorithm: Algorithm = DEFAULT,
    seed: int = 0,
    tables: Path = TABLES,
    reporter: Reporter | None = None,
) -> list[dict[str, str]]:
    """Write a deployment for each device and budget and the summary; a budget that is not met is a row with `error`."""
    reporter = reporter or Silent()
    sites = {member.device: Site(DeviceProfile.load(member.device), run.space, tables) for member in members}
    trained = TrainedSubnets(run)
    specializers = {name: Specializer(trained, [site], reporter=reporter) for name, site in sites.items()}
    rows = []
    for member in members:
        name = sites[member.device].device.name
        for budget in member.budgets:
            target = folder / f"{name}-{budget.latency_ms:g}ms"
            row = {"device": name, "budget": str(budget), "folder": target.name}
            reporter.say(f"{name}, {budget}")
            try:
                made = specializers[member.device].specialize(
                    budget,
                    target,
                    algorithm=algorithm,
                    seed=seed,
                    safety=_safety(member),
                    conversion=_conversion(member),
                )
                row |= _found(made)
            except OfaKitError as error:
                row["error"] = str(error)
            rows.append({column: row.get(column, "") for column in COLUMNS})
            _write(folder / SUMMARY, rows)
    return rows


def _plain(item: Any, source: str) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise RecipeError(f"{source}: expected 'device: NAME' and 'latency_ms: NUMBER', found {item!r}")
    latency = item.get("latency_ms")
    text = {"percentile": str(item["percentile"])} if "percentile" in item else {}
    return {**item, **text, "latency_ms": tuple(latency) if isinstance(latency, list) else latency}


def _safety(member: Member) -> Safety:
    return Safety(percentile=member.percentile, headroom=member.headroom)


def _conversion(member: Member) -> Conversion:
    return Conversion(precision=member.precision, max_accuracy_drop=member.max_accuracy_drop)


def _found(made: Deployment) -> dict[str, str]:
    measured = made.measured.get("latency_ms")
    return {
        "arch_key": made.arch.key,
        "top1_measured": f"{made.measured['validation_top1']:.3f}",
        "top1_predicted": f"{made.predicted['top1']:.3f}",
        "latency_ms_measured": "" if measured is None else f"{measured:.4f}",
        "latency_ms_predicted": f"{made.predicted['latency_ms']:.4f}",
        "test_top1_onnx": f"{made.measured['test_top1_onnx']:.3f}",
    }


def _write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    storage.write_text(path, text.getvalue())
