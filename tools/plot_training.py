"""Draw the training curve of a run: loss and validation top-1 of the smallest and largest subnet.

python tools/plot_training.py runs/NAME curve.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd


def main() -> None:
    """Read metrics.csv and write a PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    metrics = pd.read_csv(arguments.run / "metrics.csv")
    metrics["number"] = range(1, len(metrics) + 1)
    figure, (loss, top1) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    loss.plot(metrics["number"], metrics["loss"], marker="o", color="#444444")
    loss.set(xlabel="epoch", ylabel="training loss, largest subnet", title=arguments.run.name)
    for column, color in (("top1_largest", "#1f5fa8"), ("top1_smallest", "#c4572b")):
        seen = metrics.dropna(subset=[column])
        name = column.removeprefix("top1_")
        top1.plot(seen["number"], seen[column], marker="o", color=color, label=f"{name}: {seen[column].iloc[-1]:.1f} %")
    top1.set(xlabel="epoch", ylabel="validation top-1, % (measured)")
    top1.legend(loc="lower right")
    for axis in (loss, top1):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.out, dpi=130)
    print(f"{arguments.out}: {len(metrics)} epochs")


if __name__ == "__main__":
    main()
