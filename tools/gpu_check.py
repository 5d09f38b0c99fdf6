"""Check on a machine with an NVIDIA GPU what a machine without one cannot show.

    python tools/gpu_check.py
    python tools/gpu_check.py --only precision --only peer
    python tools/gpu_check.py --device cpu --small

Prints a line per check, 'ok NAME: figures' or 'FAILED NAME: figures'; exit code 1 when one failed. Without a GPU it
says what PyTorch reports and exits with 0. `--device cpu --small` runs the same code on CPU in small, to try it out:
its speeds mean nothing. Speeds are never judged, only printed.
"""

import argparse
import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator

import torch

CHECKS = {
    "equality": ("equality", "logits of GPU and CPU, of supernet and extracted subnet"),
    "precision": ("precision", "bf16 and fp16 beside fp32; the loss scale of a resumed run"),
    "processes": ("processes", "torchrun with one and two processes beside none"),
    "resume": ("precision", "a resumed run on colour images beside an uninterrupted one"),
    "compiled": ("equality", "torch.compile of fixed subnets: logits, gradients, speed"),
    "layout": ("speed", "training throughput in channels_last and contiguous memory"),
    "peer": ("speed", "training step and peak memory beside MIT's package `ofa`"),
}
"""Name: the module of `gpu_checks` with a function of that name, and what it looks at."""


def main() -> int:
    """Run the checks that are asked for; 1 when one failed."""
    arguments = read_arguments()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"skipped: PyTorch finds no NVIDIA GPU: {what_torch_reports()}")
        return 0
    # Loss scales that must shrink, and compilers that talk: nothing that a reader of this list can act on.
    warnings.filterwarnings("ignore", module="torch")
    device = torch.device(arguments.device)
    print(f"{machine(device)}{', small' if arguments.small else ''}", flush=True)
    failed = 0
    for name in arguments.only or CHECKS:
        for good, line in lines_of(name, device, arguments.small):
            print(f"{'ok' if good else 'FAILED'} {name} {line}", flush=True)
            failed += not good
    return 1 if failed else 0


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="few images, steps and subnets")
    parser.add_argument("--only", action="append", choices=list(CHECKS), help="only this check; may be repeated")
    return parser.parse_args()


def what_torch_reports() -> str:
    """Return PyTorch's own reason for having no GPU, and the CUDA it was built for."""
    built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'none'}"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"{' '.join(str(error).split())} ({built})"
    return f"{torch.cuda.device_count()} devices ({built})"


def machine(device: torch.device) -> str:
    """Return what the figures belong to."""
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return (
        f"{torch.cuda.get_device_name(device)} (one of {torch.cuda.device_count()}), torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    )


def lines_of(name: str, device: torch.device, small: bool) -> Iterator[tuple[bool, str]]:
    """Yield (good, line) of a check's results; an error that ends it is a result like the others."""
    from gpu_checks.common import FULL, SMALL

    from ofa_kit.errors import OfaKitError

    check = getattr(importlib.import_module(f"gpu_checks.{CHECKS[name][0]}"), name)
    try:
        for result in check(device, SMALL if small else FULL):
            yield result.good, f"{result.name}: {result.figures}"
    except (RuntimeError, OfaKitError, OSError, subprocess.SubprocessError) as error:
        yield False, f"ended by {type(error).__name__}: {' '.join(str(error).split())[:600]}"


if __name__ == "__main__":
    sys.exit(main())
