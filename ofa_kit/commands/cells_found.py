"""What a search of cells leaves in its folder: genotype, pictures, result and, on a device, measured latency."""

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.cells.genotype import Genotype
from ofa_kit.nas.cells.measured import MeasuredLatency, network_bytes, network_name
from ofa_kit.nas.cells.network import CellNetwork, CellNetworkShape
from ofa_kit.nas.cells.pictures import save_pictures
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter
from ofa_kit.training.distributed import Team

GENOTYPE, RESULT = "genotype.txt", "result.json"


@dataclass(frozen=True, kw_only=True)
class CellsFound:
    """What a search found, for the network that the recipe names."""

    folder: Path
    genotype: Genotype
    shape: CellNetworkShape
    params: int
    macs: int
    """Multiply-adds of an image."""
    epochs: int
    """Epochs that were run; fewer than the recipe's where the search stopped early."""
    latency: Measurement | None = None
    """Measured on the device; None without one."""
    latency_ms_predicted: float | None = None


def finished(
    folder: Path,
    shape: CellNetworkShape,
    genotype: Genotype,
    epochs: int,
    reporter: Reporter,
    *,
    device: str = "",
    predicted: MeasuredLatency | None = None,
) -> CellsFound:
    """Measure the result, draw it and write it down."""
    network = CellNetwork(genotype, shape)
    found = CellsFound(
        folder=folder,
        genotype=genotype,
        shape=shape,
        params=params_of(network),
        macs=macs_of(network, (shape.in_channels, shape.image_size, shape.image_size)),
        epochs=epochs,
        latency=time_network(folder, device, shape, genotype, reporter) if device else None,
        latency_ms_predicted=predicted.latency.of_genotype(genotype) if predicted is not None else None,
    )
    draw(genotype, folder, reporter)
    storage.write_text(folder / GENOTYPE, write_genotype(genotype) + "\n")
    facts = {
        "genotype": write_genotype(genotype),
        "params": found.params,
        "macs": found.macs,
        "epochs": epochs,
        "latency": asdict(found.latency) if found.latency else None,
        "latency_ms_predicted": found.latency_ms_predicted,
    }
    storage.write_text(folder / RESULT, json.dumps(facts, indent=2) + "\n")
    return found


def read_found(folder: Path, shape: CellNetworkShape) -> CellsFound:
    """Return what a finished search wrote."""
    found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    timed, genotype = found.pop("latency"), read_genotype(found.pop("genotype"))
    latency = Measurement(**timed) if timed else None
    return CellsFound(folder=folder, genotype=genotype, shape=shape, latency=latency, **found)


def alone(accelerator: Any, command: str) -> Team:
    """Return this process's device; an OfaKitError where torchrun started several."""
    team = Team.join(accelerator)
    if team.size > 1:
        raise OfaKitError(f"{command} runs in one process on one device; start it without torchrun")
    return team


def draw(genotype: Genotype, folder: Path, reporter: Reporter) -> None:
    """Write pictures of the cells where matplotlib is there."""
    if can_draw(reporter):
        save_pictures(genotype, folder)


def can_draw(reporter: Reporter) -> bool:
    """Return whether matplotlib is there, and say so where it is not."""
    if find_spec("matplotlib") is None:
        reporter.say("no pictures: they need matplotlib; install `ofa-kit[report]`")
        return False
    return True


def open_times(folder: Path, device: str) -> Times:
    """Return what was measured on a device for the work in a folder."""
    profile = DeviceProfile.load(device)
    return Times.open(folder / f"times-{profile.name}.csv", backend_for(profile))


def time_network(
    folder: Path, device: str, shape: CellNetworkShape, genotype: Genotype, reporter: Reporter
) -> Measurement:
    """Time a genotype's network on a device, as far as the file of times lacks it."""
    times = open_times(folder, device)
    name = network_name(shape, genotype)
    times.measure({name: network_bytes(shape, genotype, times.backend.profile.batch)}, reporter)
    return times.of(name)
