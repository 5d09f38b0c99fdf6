"""The DARTS search as work in epochs: halves of the data, one step a batch, cells derived after each epoch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ofa_kit.data.batches import batches_per_epoch, evaluation_batches, training_batches
from ofa_kit.data.dataset import Dataset, ImageSource, hold_out, part_of
from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS, Genotype, all_edges
from ofa_kit.nas.cells.latency import CellLatency
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.darts.alphas import Alphas, Mixture
from ofa_kit.nas.darts.derive import derive
from ofa_kit.nas.darts.latency import LatencyTerm, expected_ms
from ofa_kit.nas.darts.network import SearchNetwork
from ofa_kit.nas.darts.perturbation import select
from ofa_kit.nas.darts.recipe import DartsRecipe
from ofa_kit.nas.darts.step import Batch, SearchStep
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training import checkpoint
from ofa_kit.training.epochs import Numbers, Rows
from ofa_kit.training.schedule import learning_rate

COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "validation_loss",
    "entropy",
    "skips",
    "latency_ms_expected",
    "latency_ms_predicted",
    "genotype",
    "elapsed_s",
)
SHARE_COLUMNS = ("epoch", "cell", "node", "input", "edge_share", *DARTS_OPERATIONS)
ALPHA_STREAM = 1
"""Images of the alphas are drawn by another seed than those of the weights."""
TUNING = 1_000_000
"""Epoch number from which the batches of tuning after the search are drawn."""


@dataclass(frozen=True)
class Halves:
    """The images that the weights learn from and those that the alphas do."""

    weights: ImageSource
    alphas: ImageSource

    @classmethod
    def of(cls, dataset: Dataset, recipe: DartsRecipe) -> "Halves":
        """Cut the training images, or a part of them, with the same share of each class in both."""
        return cls(*hold_out(part_of(dataset, recipe.images, recipe.seed), 0.5, recipe.seed))


class Search:
    """A search network, its alphas and what moves them; see `training.epochs.Work`."""

    def __init__(
        self,
        recipe: DartsRecipe,
        dataset: Dataset,
        folder: Path,
        device: torch.device,
        latency: CellLatency | None = None,
    ) -> None:
        self.recipe, self.dataset, self.device, self.latency = recipe, dataset, device, latency
        self.halves = Halves.of(dataset, recipe)
        self.epochs = recipe.epochs
        self.steps_per_epoch = min(
            batches_per_epoch(half, recipe.batch_size) for half in (self.halves.weights, self.halves.alphas)
        )
        self.metrics, self.shares = folder / "search.csv", folder / "shares.csv"
        self.logs: Mapping[Path, Sequence[str]] = {self.metrics: COLUMNS, self.shares: SHARE_COLUMNS}
        info = dataset.info
        generator = torch.Generator().manual_seed(recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = SearchNetwork(
                recipe.search_shape(info.in_channels, info.num_classes, info.image_size),
                nodes=recipe.nodes,
                parts=recipe.partial_channels,
            )
        self.network = network.to(device).train()
        self.alphas = Alphas.fresh(
            recipe.nodes,
            len(DARTS_OPERATIONS),
            generator,
            score_edges=recipe.partial_channels > 1,
            device=device,
        )
        counts = latency is not None and recipe.latency_weight > 0
        term = LatencyTerm(latency, recipe.latency_weight, recipe.latency_target_ms) if counts and latency else None
        self.moves = SearchStep(self.network, self.alphas, recipe, term)
        self.kept: Genotype | None = None
        """The last cells within `max_skips` and the latency target, where there is one of these."""
        self.ended_early = False

    @property
    def genotype(self) -> Genotype:
        """Return the cells of the largest shares: those of the last epoch, or the last within the limits."""
        if self.kept is not None:
            return self.kept
        return derive(self.alphas.mixture(), DARTS_OPERATIONS)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, Batch]]:
        """Yield a batch for the weights and one for the alphas."""
        weights = self._batches(self.halves.weights, 0, epoch, start)
        alphas = self._batches(self.halves.alphas, ALPHA_STREAM, epoch, start)
        for _ in range(start, self.steps_per_epoch):
            yield next(weights), next(alphas)

    def step(self, batch: tuple[Batch, Batch], epoch: int, step: int) -> Numbers:
        """Move the alphas, after the warm-up, and the weights."""
        train, validation = batch
        lr = self._learning_rate(epoch * self.steps_per_epoch + step)
        losses = {}
        if epoch >= self.recipe.warmup_epochs:
            losses["validation_loss"] = self.moves.move_alphas(train, validation, lr)
        return {"train_loss": self.moves.move_weights(train, lr), **losses}

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Derive cells, stop where they have too many skip-connections, and log."""
        found = derive(self.alphas.mixture(), DARTS_OPERATIONS)
        most, term = self.recipe.max_skips, self.moves.latency
        fits = most is None or found.normal.skips <= most
        if fits and (term is None or term.is_met(self.alphas)):
            limited = most is not None or self.recipe.latency_target_ms is not None
            self.kept = found if limited else None
        elif not fits and self.kept is not None:
            self.ended_early = True
        row: dict[str, object] = {
            "epoch": epoch + 1,
            "lr": f"{self._learning_rate((epoch + 1) * self.steps_per_epoch - 1):.6g}",
            "train_loss": f"{means['train_loss']:.4f}",
            "validation_loss": f"{means['validation_loss']:.4f}" if "validation_loss" in means else "",
            "entropy": f"{self.alphas.entropy():.4f}",
            "skips": found.normal.skips,
            "genotype": write_genotype(found),
            "elapsed_s": f"{means['elapsed_s']:.1f}",
        }
        if self.latency is not None:
            with torch.no_grad():
                row["latency_ms_expected"] = f"{float(expected_ms(self.latency, self.alphas)):.4f}"
            row["latency_ms_predicted"] = f"{self.latency.of_genotype(found):.4f}"
        return {self.metrics: [row], self.shares: list(self._share_rows(epoch + 1))}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return weights, alphas and the state of both optimizers, and the cells kept so far."""
        tensors = checkpoint.with_prefix("network", self.network.state_dict())
        tensors |= {f"alphas/{number}": tensor for number, tensor in enumerate(self.alphas.tensors)}
        tensors |= checkpoint.with_prefix("sgd", checkpoint.optimizer_tensors(self.moves.sgd))
        tensors |= checkpoint.with_prefix("adam", checkpoint.optimizer_tensors(self.moves.adam))
        return tensors, {
            "kept": write_genotype(self.kept) if self.kept is not None else "",
            "ended_early": self.ended_early,
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.network.load_state_dict(checkpoint.without_prefix("network", tensors))
        with torch.no_grad():
            for number, tensor in enumerate(self.alphas.tensors):
                tensor.copy_(tensors[f"alphas/{number}"])
        checkpoint.restore_optimizer(self.moves.sgd, checkpoint.without_prefix("sgd", tensors))
        checkpoint.restore_optimizer(self.moves.adam, checkpoint.without_prefix("adam", tensors))
        self.kept = read_genotype(facts["kept"]) if facts["kept"] else None
        self.ended_early = facts["ended_early"]

    def select_by_perturbation(self, reporter: Reporter | None = None) -> Genotype:
        """Return the cells that the trained network can do least without; its weights learn on between edges.

        Begun anew after a kill: a checkpoint stands at the end of the epochs.
        """
        half = self.halves.alphas
        order = np.random.default_rng(self.recipe.seed).permutation(len(half.labels))
        chosen = np.sort(order[: self.recipe.perturbation_images])
        judged = [self._here(batch) for batch in evaluation_batches(half, self.dataset.info, indices=chosen)]

        @torch.no_grad()
        def loss_of(mixture: Mixture) -> float:
            losses = [F.cross_entropy(self.network(x, mixture), y, reduction="sum").item() for x, y in judged]
            return sum(losses) / len(chosen)

        tuning = self._tuning_batches()

        def tune(mixture: Mixture) -> None:
            for _ in range(self.recipe.tune_steps):
                self.moves.move_weights(next(tuning), self.recipe.lr_min, mixture)

        generator = torch.Generator().manual_seed(self.recipe.seed)
        mixture = self.alphas.mixture().detached()
        edges = 2 * len(all_edges(self.recipe.nodes))
        with (reporter or Silent()).task("perturbation", edges) as advance:

            def watch(done: int, _total: int) -> None:
                advance(done, "")

            return select(mixture, DARTS_OPERATIONS, loss_of, generator, tune=tune, watch=watch)

    def _batches(self, half: ImageSource, stream: int, epoch: int, start: int) -> Iterator[Batch]:
        found = training_batches(
            half,
            self.dataset.info,
            batch_size=self.recipe.batch_size,
            seed=2 * self.recipe.seed + stream,
            epoch=epoch,
            start=start,
            workers=self.recipe.workers,
            pinned=self.device.type == "cuda",
        )
        return (self._here(batch) for batch in found)

    def _tuning_batches(self) -> Iterator[Batch]:
        epoch = TUNING
        while True:  # as many as `tune` asks for
            yield from self._batches(self.halves.weights, 0, epoch, 0)
            epoch += 1

    def _here(self, batch: Batch) -> Batch:
        images = batch[0].to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return images, batch[1].to(self.device, non_blocking=True)

    def _learning_rate(self, done: int) -> float:
        recipe = self.recipe
        above = learning_rate(
            "cosine",
            recipe.lr - recipe.lr_min,
            done,
            steps=recipe.epochs * self.steps_per_epoch,
            steps_per_epoch=self.steps_per_epoch,
            warmup=0,
        )
        return recipe.lr_min + above

    def _share_rows(self, epoch: int) -> Iterator[dict[str, object]]:
        mixture = self.alphas.mixture().detached()
        for reduction, cell in ((False, "normal"), (True, "reduce")):
            edge_shares = mixture.edge_shares(reduction=reduction)
            shares = mixture.shares(reduction=reduction).tolist()
            for row, (node, source) in enumerate(all_edges(self.recipe.nodes)):
                found: dict[str, object] = {"epoch": epoch, "cell": cell, "node": node, "input": source}
                found["edge_share"] = "" if edge_shares is None else f"{float(edge_shares[row]):.4f}"
                yield found | {name: f"{share:.4f}" for name, share in zip(DARTS_OPERATIONS, shares[row], strict=True)}
