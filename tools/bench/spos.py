"""SPOS on small images, whole: supernets trained, searched under budgets, and compared with random choices.

    python tools/bench/spos.py --data imagefolder:PATH --minutes 60 --folder runs/bench-spos

Three studies, each by itself or all of them, all resumable:
blocks: the space of choice blocks under a measured latency budget on a device.
channels: then channel scales of the block architecture that was found, under a MACs budget.
bits: bits of weights and activations of small ResNets, under a budget of bit operations.
Each trains its supernet, searches within the budget and without one, and measures 10 random choices within the same
budget. Top-1 is that of test images, which no search has seen; every candidate has its batch norm recalibrated.
Exit code 1 when a search within the budget is not better than the mean of its random choices, or when the budget does
not change what is found.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from spos_runs import (
    Settings,
    agreed,
    drawn,
    measure_listed,
    measured_ms,
    random_choices,
    search,
    share_of,
    trained,
    with_operations,
)

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import bit_operations_of, macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.presets import preset
from ofa_kit.commands.measure_accuracy import open_evaluator
from ofa_kit.commands.measure_engine import Measuring
from ofa_kit.commands.profile import models_of, profile
from ofa_kit.commands.specialize_site import Site
from ofa_kit.commands.spos_evolution import SposSettings
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.progress import Terminal
from ofa_kit.search.budget import Budget, Values
from ofa_kit.storage import write_text
from ofa_kit.supernet.recalibrate import top1
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.evaluate import Evaluator, decoded, labelled_batches
from ofa_kit.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result: a subnet, or the mean of several, with test top-1 in percent."""

    study: str
    what: str
    budget: str
    key: str
    test_top1: float
    spread: float
    """Standard deviation over the random choices; 0 for a single subnet."""
    cost: float


def main() -> int:
    """Run the studies and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--data", required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-spos"))
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, for each supernet")
    parser.add_argument("--epochs", type=int, help="instead of --minutes")
    parser.add_argument("--device", default="cpu-ort")
    parser.add_argument("--subnets", type=int, default=24, help="timed to calibrate the latency table")
    parser.add_argument("--population", type=int, default=50)
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--images", type=int, default=1000, help="validation images a candidate is measured on")
    parser.add_argument("--test-images", type=int, default=0, help="0 = all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    half = arguments.population // 2
    settings = Settings(
        data=arguments.data,
        folder=arguments.folder,
        minutes=arguments.minutes,
        epochs=arguments.epochs,
        device=DeviceProfile.load(arguments.device),
        subnets=arguments.subnets,
        spos=SposSettings(
            population=arguments.population,
            generations=arguments.generations,
            mutations=half,
            crossovers=half,
            seed=arguments.seed,
        ),
        how=Measuring(images=arguments.images),
        test_images=arguments.test_images,
        reporter=Terminal(60),
    )
    rows = [row for name in arguments.studies for row in STUDIES[name](settings)]
    write_text(settings.folder / "spos.json", json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(table(rows))
    return verdict(rows)


def blocks(settings: Settings) -> list[Row]:
    """Choice blocks under a latency budget: measured, of the search and of the random choices alike."""
    run = trained(settings, "blocks", preset("spos-small-images"))
    space = run.space
    profile(settings.device, space, subnets=settings.subnets, tables=settings.tables, reporter=settings.reporter)
    site = Site(settings.device, space, settings.tables)
    latency_ms = agreed(settings, "blocks", lambda: share_of(site.predictor.predict_ms(drawn(space, 0))))
    budget = Budget(latency_ms=latency_ms)

    def fitting(genomes: Genomes) -> Genomes:
        archs = [space.decode(genome) for genome in genomes]
        assert site.backend is not None, "it was profiled here"
        site.time(models_of(space, site.untimed(archs), site.backend))
        return genomes[[measured_ms(site, arch) <= latency_ms for arch in archs]]

    def cost(genomes: Genomes) -> Values:
        return site.predictor.predict_ms(genomes)

    return study(settings, run, "blocks", budget, math.inf, cost, latency_ms, fitting)


def channels(settings: Settings) -> list[Row]:
    """Channel scales of the best block architecture, as published: after the block search."""
    budget = Budget(latency_ms=agreed(settings, "blocks", not_studied))
    found = search(settings, "blocks", Run.open(settings.folder / "blocks"), budget, math.inf)
    space = with_operations(preset("spos-small-images-channels"), found.best.arch)
    run = trained(settings, "channels", space)
    return under_cost(settings, run, "channels", lambda genomes: macs_of(run.space, genomes) / 1e6)


def bits(settings: Settings) -> list[Row]:
    """Bits of weights and activations under a budget of bit operations."""
    run = trained(settings, "bits", preset("spos-bits-small-images"))
    return under_cost(settings, run, "bits", lambda genomes: bit_operations_of(run.space, genomes) / 1e9)


STUDIES: dict[str, Callable[[Settings], list[Row]]] = {"blocks": blocks, "channels": channels, "bits": bits}


def not_studied() -> float:
    """Stand in for a budget that another study decides."""
    raise OfaKitError("channels starts from what blocks finds: run the study blocks first")


def under_cost(settings: Settings, run: Run, name: str, cost: Callable[[Genomes], Values]) -> list[Row]:
    """Study a run under a budget that is counted: MACs or bit operations."""
    most = agreed(settings, name, lambda: share_of(cost(drawn(run.space, 0))))
    budget = Budget(macs_m=most) if name == "channels" else Budget()
    bit_ops_g = most if name == "bits" else math.inf
    return study(settings, run, name, budget, bit_ops_g, cost, most, lambda genomes: genomes)


def study(
    settings: Settings,
    run: Run,
    name: str,
    budget: Budget,
    bit_ops_g: float,
    cost: Callable[[Genomes], Values],
    most: float,
    fitting: Callable[[Genomes], Genomes],
) -> list[Row]:
    """Return rows of the search within the budget, of the one without, and of random choices within."""
    evaluator = open_evaluator(run)
    said = f"{budget}" if math.isinf(bit_ops_g) else f"{bit_ops_g:g} G bit operations"
    within = search(settings, name, run, budget, bit_ops_g).best.arch
    without = search(settings, name, run, Budget(), math.inf).best.arch
    draws = drawn(run.space, settings.spos.seed + 1)
    choices = random_choices(draws[cost(draws) <= most], fitting)
    archs = [run.space.decode(genome) for genome in choices]
    measure_listed(run, settings, archs)
    supernet = run.load_supernet()[0]

    def row(what: str, archs: Sequence[ArchConfig], where: str) -> Row:
        found = [test_top1(evaluator, supernet, arch, settings.test_images) for arch in archs]
        genomes = np.stack([run.space.encode(arch) for arch in archs])
        return Row(
            study=name,
            what=what,
            budget=where,
            key=archs[0].key if len(archs) == 1 else "",
            test_top1=mean(found),
            spread=stdev(found) if len(found) > 1 else 0.0,
            cost=float(cost(genomes).mean()),
        )

    return [
        row("search", [within], said),
        row(f"mean of {len(archs)} random choices", archs, said),
        row("search", [without], "no limit"),
    ]


def test_top1(evaluator: Evaluator, supernet: Supernet, arch: ArchConfig, images: int) -> float:
    """Return top-1 in percent on so many test images (0 = all)."""
    subnet = evaluator.recalibrated(supernet, arch)
    if not images:
        return evaluator.test_top1(subnet)
    info = evaluator.dataset.info
    return top1(subnet, labelled_batches(decoded(evaluator.dataset.test, info, images), info))


def table(rows: Sequence[Row]) -> str:
    """Return the markdown table."""
    lines = ["| study | what | budget | test top-1, % | cost | arch |", "|---|---|---|---|---|---|"]
    for row in rows:
        spread = f" +- {row.spread:.2f}" if row.spread else ""
        lines.append(
            f"| {row.study} | {row.what} | {row.budget} | {row.test_top1:.2f}{spread} | {row.cost:.4g} | {row.key} |"
        )
    return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> int:
    """Print what each study shows; 1 when one of them shows nothing."""
    bad = 0
    for name in dict.fromkeys(row.study for row in rows):
        within, random, without = (row for row in rows if row.study == name)
        better, changed = within.test_top1 > random.test_top1, within.key != without.key
        gain = within.test_top1 - random.test_top1
        print(
            f"{name}: the search within {within.budget} is {gain:+.2f} points from the mean of random choices (test, "
            f"measured); the budget {'changes' if changed else 'does NOT change'} what is found"
        )
        bad += not (better and changed)
    return min(bad, 1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OfaKitError as error:
        sys.exit(f"error: {error}")
