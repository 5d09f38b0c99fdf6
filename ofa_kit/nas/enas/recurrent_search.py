"""ENAS's search of a recurrent cell: an epoch of the shared weights, then rounds of the controller (Pham et al. 2018).

Weights learn from the training text, a freshly drawn cell for each segment; the controller is paid for what its cells
do with these weights on a stretch of the validation text.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ofa_kit.data.text_batches import Columns, Segment
from ofa_kit.nas.enas.recurrent_controller import CellController, from_tokens
from ofa_kit.nas.enas.recurrent_recipe import EnasTextRecipe
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype, read_genotype, write_genotype
from ofa_kit.nas.recurrent.language_model import LanguageModel, perplexity
from ofa_kit.nas.recurrent.reward import CellLatency, reward_of
from ofa_kit.nas.recurrent.work import TextWork, generator_of
from ofa_kit.nas.reinforce.policy import Policy
from ofa_kit.training.epochs import Numbers, Rows

COLUMNS = ("epoch", "loss", "validation_perplexity", "reward", "baseline", "entropy", "genotype", "elapsed_s")
ROUNDS = ("epoch", "round", "reward", "baseline", "entropy", "loss", "best_perplexity", "best")
ROUND_LOG = "controller.csv"


@dataclass(frozen=True)
class Round:
    """One update of the controller."""

    number: int


@dataclass(frozen=True)
class Judged:
    """A cell and how it did with the shared weights."""

    genotype: RecurrentGenotype
    perplexity: float
    latency_ms: float | None
    reward: float


class EnasTextWork(TextWork):
    """A search under way."""

    def __init__(
        self,
        model: LanguageModel,
        policy: Policy,
        train: Columns,
        validation: Columns,
        recipe: EnasTextRecipe,
        log: Path,
        seed: int,
        latency: CellLatency | None = None,
    ) -> None:
        super().__init__(model, train, recipe, log, COLUMNS, seed)
        self.logs = {log: COLUMNS, log.with_name(ROUND_LOG): ROUNDS}
        self.policy, self.validation, self.search, self.latency = policy, validation, recipe, latency
        self.segments = self.steps_per_epoch
        self.rounds: list[dict[str, Any]] = []
        """Rows of the epoch under way."""

    def batches(self, epoch: int, start: int) -> Iterator[Segment | Round]:  # type: ignore[override]
        """Return the segments of an epoch, then the rounds of the controller, from step `start` on."""
        segments = super().batches(epoch, start)
        self.segments = self.steps_per_epoch
        self.steps_per_epoch += self.search.rounds
        self.lr = self.search.lr * self.search.lr_decay ** max(0, epoch + 1 - self.search.decay_start)
        return chain(segments, map(Round, range(max(0, start - self.segments), self.search.rounds)))

    def step(self, batch: Segment | Round, epoch: int, step: int) -> Numbers:
        """Move the weights for a cell of the controller, or the controller."""
        generator = generator_of(self.seed, epoch, step)
        if isinstance(batch, Round):
            return self.move_controller(batch, epoch, generator)
        (tokens,) = self.policy.sample(1, generator).tokens.tolist()
        return {"loss": self.learn(batch, self.masks.draw(generator), from_tokens(tokens))}

    def move_controller(self, batch: Round, epoch: int, generator: torch.Generator) -> Numbers:
        """Judge cells on one stretch of the validation text and learn from their rewards."""
        tokens = self.policy.sample(self.search.samples, generator).tokens
        rows = min(self.search.reward_rows, self.validation.rows)
        start = int(torch.randint(self.validation.rows - rows + 1, (), generator=generator))
        stretch = Columns(*Segment(0, start, rows).of(self.validation))
        judged = [self.judge(from_tokens(row), stretch) for row in tokens.tolist()]
        learned = self.policy.update(tokens, [each.reward for each in judged])
        best = max(judged, key=lambda each: each.reward)
        self.rounds.append(
            {
                "epoch": epoch + 1,
                "round": batch.number + 1,
                "reward": f"{learned.reward:.6f}",
                "baseline": f"{learned.baseline:.6f}",
                "entropy": f"{learned.entropy:.5f}",
                "loss": f"{learned.loss:.5f}",
                "best_perplexity": f"{best.perplexity:.4f}",
                "best": write_genotype(best.genotype),
            }
        )
        return {"reward": learned.reward, "baseline": learned.baseline, "entropy": learned.entropy}

    def judge(self, genotype: RecurrentGenotype, text: Columns) -> Judged:
        """Return how a cell does on a text with the shared weights."""
        found = perplexity(self.model, text, genotype)
        latency_ms = self.latency(genotype) if self.latency else None
        return Judged(genotype, found, latency_ms, reward_of(self.search.reward, found, latency_ms))

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Log the epoch, with the best cell of its last round on all of the validation text."""
        of_segments, of_rounds = (self.steps_per_epoch / count for count in (self.segments, self.search.rounds))
        row = {
            "epoch": epoch + 1,
            "loss": f"{means['loss'] * of_segments:.5f}",
            "genotype": self.rounds[-1]["best"],
            "elapsed_s": f"{means['elapsed_s']:.1f}",
        }
        row |= {key: f"{means[key] * of_rounds:.6f}" for key in ("reward", "baseline", "entropy")}
        best = self.judge(read_genotype(self.rounds[-1]["best"]), self.validation)
        row["validation_perplexity"] = f"{best.perplexity:.4f}"
        rounds, self.rounds = self.rounds, []
        return {self.log: [row], self.log.with_name(ROUND_LOG): rounds}

    def derived(self) -> list[Judged]:
        """Return cells that the controller draws, judged on all of the validation text, the best one first."""
        generator = generator_of(self.seed, self.epochs)
        tokens = self.policy.sample(self.search.derive_samples, generator).tokens
        cells = dict.fromkeys(from_tokens(row) for row in tokens.tolist())
        return sorted((self.judge(cell, self.validation) for cell in cells), key=lambda each: -each.reward)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return weights and controller, and the rounds of the epoch under way."""
        tensors, facts = self.policy.state()
        return self.state_tensors() | tensors, {"policy": facts, "rounds": self.rounds}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.restore_tensors(tensors)
        self.policy.restore(tensors, facts["policy"])
        self.rounds = list(facts["rounds"])


def fresh_policy(recipe: EnasTextRecipe, generator: torch.Generator) -> Policy:
    """Return a policy at its start."""
    shape = recipe.controller
    controller = CellController(
        recipe.nodes - 1,
        generator,
        hidden=shape.hidden,
        temperature=shape.temperature,
        tanh_constant=shape.tanh_constant,
        init_range=shape.init_range,
    )
    return Policy(controller, recipe.policy)
