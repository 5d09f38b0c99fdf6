"""Start a kit's runner: `python3 run.py --help`. In the kit this file stands above the others."""

import os
import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    if sys.version_info < (3, 8) or os.name != "posix":
        sys.stderr.write("error: the kit needs Python 3.8 or newer on Linux or macOS\n")
        sys.exit(2)
    folder = Path(__file__).resolve().parent
    sys.path.insert(0, str(folder))
    sys.exit(import_module("latency.board.runner.main").main(folder))
