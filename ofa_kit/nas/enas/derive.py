"""The end of a search by shared weights: samples of the controller, judged on all held-out images; the best wins."""

from pathlib import Path

import torch

from ofa_kit import storage
from ofa_kit.nas.enas.search import A, SharedSearch
from ofa_kit.progress import Reporter

COLUMNS = ("reward", "top1", "latency_ms_predicted", "genotype")
STREAM = 1
"""Samples are drawn by another seed than the controller's weights."""


def derive(search: SharedSearch[A], path: Path, reporter: Reporter) -> A:
    """Return the sampled architecture of the highest reward, the first one of equals; `path` keeps what is judged."""
    recipe = search.recipe
    generator = torch.Generator().manual_seed(2 * recipe.seed + STREAM)
    drawn = search.archs(search.policy.sample(recipe.derive_samples, generator).tokens)
    archs = {search.write(arch): arch for arch in drawn}
    judged = {row["genotype"]: float(row["reward"]) for row in storage.read_rows(path, COLUMNS)}
    batches = search.held_batches()
    count = sum(len(labels) for _, labels in batches)
    with reporter.task("judging samples", len(archs)) as advance:
        for done, (text, arch) in enumerate(archs.items(), start=1):
            if text not in judged:
                accuracy = sum(search.correct(arch, batch) for batch in batches) / count
                row = {
                    "reward": f"{search.reward(arch, accuracy):.6f}",
                    "top1": f"{100 * accuracy:.2f}",
                    "latency_ms_predicted": f"{search.latency_ms(arch):.4f}" if search.latency_ms else "",
                    "genotype": text,
                }
                storage.append_rows(path, COLUMNS, [row])
                judged[text] = float(row["reward"])
            advance(done, f"best reward {max(judged.values()):.4f}")
    return archs[max(archs, key=judged.__getitem__)]
