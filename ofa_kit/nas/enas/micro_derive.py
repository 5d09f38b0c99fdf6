"""The end of a micro search: cells sampled from the controller, judged on all held-out images; the best one wins."""

from pathlib import Path

import torch

from ofa_kit import storage
from ofa_kit.nas.cells.genotype import Genotype
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.enas.micro_search import MicroSearch
from ofa_kit.progress import Reporter

COLUMNS = ("reward", "top1", "latency_ms_predicted", "genotype")
STREAM = 1
"""Cells are drawn by another seed than the controller's weights."""


def derive(search: MicroSearch, path: Path, reporter: Reporter) -> Genotype:
    """Return the sampled genotype of the highest reward, the first one of equals; `path` keeps what is judged."""
    recipe = search.recipe
    generator = torch.Generator().manual_seed(2 * recipe.seed + STREAM)
    drawn = search.controller.genotypes(search.policy.sample(recipe.derive_samples, generator).tokens)
    genotypes = list(dict.fromkeys(drawn))
    judged = {row["genotype"]: float(row["reward"]) for row in storage.read_rows(path, COLUMNS)}
    batches = search.held_batches()
    count = sum(len(labels) for _, labels in batches)
    with reporter.task("judging sampled cells", len(genotypes)) as advance:
        for done, genotype in enumerate(genotypes, start=1):
            text = write_genotype(genotype)
            if text not in judged:
                accuracy = sum(search.correct(genotype, batch) for batch in batches) / count
                row = {
                    "reward": f"{search.reward(genotype, accuracy):.6f}",
                    "top1": f"{100 * accuracy:.2f}",
                    "latency_ms_predicted": f"{search.latency.of_genotype(genotype):.4f}" if search.latency else "",
                    "genotype": text,
                }
                storage.append_rows(path, COLUMNS, [row])
                judged[text] = float(row["reward"])
            advance(done, f"best reward {max(judged.values()):.4f}")
    return read_genotype(max((write_genotype(genotype) for genotype in genotypes), key=judged.__getitem__))
