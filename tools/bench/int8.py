"""What int8 costs in top-1 and saves in time, in ONNX Runtime on this machine.

    python tools/bench/int8.py --run runs/mobile --run runs/resnet

For a middle and the largest subnet of each run: recalibrated, exported, quantised with ranges from training images,
judged on all test images before and after, and timed before and after in turn, in several sessions. A ResNet run is
made by

    ofa-kit train-supernet --space resnet-small-images --data imagefolder:PATH --method single-path --epochs 3 \
        --set lr=0.1 --run resnet

Times need an idle machine.
"""

import argparse
from dataclasses import replace

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import macs
from ofa_kit.arch.selection import spread_subnets
from ofa_kit.arch.space import SearchSpace
from ofa_kit.cli.show import open_run
from ofa_kit.commands.deploy_conversion import Conversion, ConvertedModel, convert, runner, times_beside_fp32
from ofa_kit.commands.measure_accuracy import open_evaluator
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.batches import evaluation_batches
from ofa_kit.export.compare import compare
from ofa_kit.export.onnx_export import export
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement, load_average
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.evaluate import Evaluator

COLUMNS = (
    "space", "subnet", "MACs M", "right in fp32", "right in int8", "points lost", "class kept %", "fp32 ms", "int8 ms",
    "times as fast", "n", "MiB fp32 / int8",
)  # fmt: skip


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", required=True, help="a trained run; may be given several times")
    parser.add_argument("--device", default="cpu-ort", help="an ONNX Runtime or OpenVINO device profile")
    parser.add_argument("--sessions", type=int, default=3, help="timing sessions of each pair")
    arguments = parser.parse_args()
    prepare_torch()
    device = DeviceProfile.load(arguments.device)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    verdicts, load = [], load_average()
    for name in arguments.run:
        run = open_run(name)
        evaluator, (supernet, _) = open_evaluator(run), run.load_supernet()
        for label, arch in subnets(run.space).items():
            found, sessions = measured(supernet, arch, evaluator, device, arguments.sessions)
            print(row(run.space, label, arch, found, sessions), flush=True)
            verdicts.append(f"{run.space.name}, {label}: {found.verdict()}")
    print(
        "\nms: least of all sessions (p50 and spread of that one); times as fast: median of the sessions (all of them);"
    )
    print(f"n: runs in fp32 / in int8. Load {load:.1f} before, {load_average():.1f} after.\n")
    print("\n".join(verdicts))


def subnets(space: SearchSpace) -> dict[str, ArchConfig]:
    """Return a middle subnet by MACs and the largest one."""
    by_macs = sorted(spread_subnets(space, 6), key=lambda arch: macs(space, arch))
    return {"middle": by_macs[len(by_macs) // 2], "largest": space.largest()}


def measured(
    supernet: Supernet, arch: ArchConfig, evaluator: Evaluator, device: DeviceProfile, count: int
) -> tuple[ConvertedModel, list[dict[str, Measurement]]]:
    """Return the conversion of one subnet and the times of all sessions, its own first."""
    subnet, dataset = evaluator.recalibrated(supernet, arch), evaluator.dataset
    source = export(subnet, batch=device.batch)
    proof = compare(subnet, runner(source), evaluation_batches(dataset.test, dataset.info))
    whatever_it_costs = Conversion(precision="int8", max_accuracy_drop=100)
    found = convert(source, proof, device, evaluator, whatever_it_costs)
    more = [times_beside_fp32(source, found.loadable, found.device) for _ in range(count - 1)]
    sessions = [dict(found.times), *more]
    least = {name: min((s[name] for s in sessions), key=lambda one: one.latency_ms) for name in ("fp32", "int8")}
    return replace(found, times=least), sessions


def row(
    space: SearchSpace, label: str, arch: ArchConfig, found: ConvertedModel, sessions: list[dict[str, Measurement]]
) -> str:
    """Return one line of the table."""
    accuracy = found.accuracy
    ratios = [session["fp32"].latency_ms / session["int8"].latency_ms for session in sessions]
    cells = [
        space.name,
        f"{label}, {arch.resolution} px",
        f"{macs(space, arch) / 1e6:.1f}",
        f"{accuracy.correct_before} of {accuracy.images}",
        f"{accuracy.correct_after}",
        f"{accuracy.drop:.2f}",
        f"{100 * accuracy.same_class / accuracy.images:.1f}",
        *(
            f"{found.times[name].latency_ms:.4f} ({found.times[name].p50_ms:.4f}, {100 * found.times[name].cv:.0f} %)"
            for name in ("fp32", "int8")
        ),
        f"{np.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})",
        " / ".join(str(sum(session[name].runs for session in sessions)) for name in ("fp32", "int8")),
        f"{found.bytes_before / 2**20:.2f} / {found.model.ByteSize() / 2**20:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
