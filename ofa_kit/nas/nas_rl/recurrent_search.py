"""NAS-RL's search of a recurrent cell: every child is trained on the text, and the controller is paid for its cells.

A child is kept on disk while it trains, so that a kill costs a minute of it. A cell that is drawn again keeps its first
result.
"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ofa_kit.data.text_batches import Columns
from ofa_kit.errors import DivergedError
from ofa_kit.nas.nas_rl.recurrent_recipe import RlTextRecipe
from ofa_kit.nas.recurrent.any_cell import make_language_model
from ofa_kit.nas.recurrent.recipe import TrainRecipe
from ofa_kit.nas.recurrent.retrain import TrainWork
from ofa_kit.nas.recurrent.reward import CellLatency, refuse_without_reward, reward_of
from ofa_kit.nas.recurrent.tree import TreeGenotype, from_tokens, read_tree, token_sizes, write_tree
from ofa_kit.nas.recurrent.work import generator_of
from ofa_kit.nas.reinforce.controller import TokenController
from ofa_kit.nas.reinforce.policy import Policy
from ofa_kit.training.epochs import Numbers, Rows, work_through

COLUMNS = ("epoch", "reward", "baseline", "entropy", "loss", "validation_perplexity", "best_perplexity", "elapsed_s")
CHILDREN = ("epoch", "child", "genotype", "validation_perplexity", "latency_ms", "reward")
CHILD_LOG = "children.csv"
CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class Children:
    """Trains children on a text."""

    words: int
    train: Columns
    validation: Columns
    recipe: TrainRecipe
    seed: int
    device: torch.device

    def perplexity(self, genotype: TreeGenotype, folder: Path) -> float:
        """Return the validation perplexity of a child's best epoch; infinite where training diverged.

        An interrupted training goes on from its checkpoint in `folder`, which is removed at the end.
        """
        recipe, generator = self.recipe, generator_of(self.seed)
        model = make_language_model(genotype, recipe.hidden, self.words, generator, init_range=recipe.init_range)
        log = folder / "metrics.csv"
        work = TrainWork(model.to(self.device), self.train, self.validation, recipe, log, self.seed)
        try:
            work_through(work, folder / "last.safetensors", checkpoint_s=CHECKPOINT_S)
        except DivergedError:
            work.history.append(math.inf)
        shutil.rmtree(folder, ignore_errors=True)
        return min(work.history)


class TreeSearch:
    """A search under way; see `training.epochs.Work`: an epoch is a round, a step is a child."""

    def __init__(
        self,
        policy: Policy,
        children: Children,
        recipe: RlTextRecipe,
        log: Path,
        seed: int,
        latency: CellLatency | None,
    ) -> None:
        self.policy, self.children, self.recipe, self.seed, self.latency = policy, children, recipe, seed, latency
        self.log, self.child_log = log, log.with_name(CHILD_LOG)
        self.logs: Mapping[Path, Sequence[str]] = {log: COLUMNS, self.child_log: CHILDREN}
        self.epochs, self.steps_per_epoch, self.ended_early = recipe.rounds, recipe.children, False
        self.perplexities: dict[str, float] = {}
        """By the text of each cell that was trained so far."""
        self.best: tuple[str, float] = ("", -math.inf)
        """Text and reward of the best one."""
        self.fastest_ms: float | None = None
        self.round: list[dict[str, Any]] = []
        """Rows of the children of the round under way."""

    @property
    def genotype(self) -> TreeGenotype:
        """Return the best cell so far; an error where none earned anything."""
        refuse_without_reward(self.recipe.reward, self.best[1], self.fastest_ms)
        return read_tree(self.best[0])

    def tokens(self, epoch: int) -> Tensor:
        """Return the tokens (children, T) of a round that the policy stands before."""
        return self.policy.sample(self.recipe.children, generator_of(self.seed, epoch)).tokens

    def batches(self, epoch: int, start: int) -> Iterator[TreeGenotype]:
        """Return the cells of a round from number `start` on."""
        return iter([from_tokens(row) for row in self.tokens(epoch).tolist()[start:]])

    def step(self, batch: TreeGenotype, epoch: int, step: int) -> Numbers:
        """Time a child, train it and judge it; one that is too slow to earn anything is not trained."""
        text, term = write_tree(batch), self.recipe.reward.latency_term
        latency_ms = self.latency(batch) if self.latency else None
        if latency_ms is not None:
            self.fastest_ms = min(latency_ms, self.fastest_ms or latency_ms)
        worthless = term is not None and latency_ms is not None and term.factor(latency_ms) == 0
        if not worthless and text not in self.perplexities:
            folder = self.log.with_name(f"child-{epoch + 1}-{step + 1}")
            self.perplexities[text] = self.children.perplexity(batch, folder)
        found = math.inf if worthless else self.perplexities[text]
        reward = reward_of(self.recipe.reward, found, latency_ms)
        self.best = max(self.best, (text, reward), key=lambda each: each[1])
        self.round.append(
            {
                "epoch": epoch + 1,
                "child": step + 1,
                "genotype": text,
                "validation_perplexity": "" if worthless else found,
                "latency_ms": "" if latency_ms is None else latency_ms,
                "reward": reward,
            }
        )
        return {"reward": reward}

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Learn from the round and log it."""
        learned = self.policy.update(self.tokens(epoch), [row["reward"] for row in self.round])
        trained = [row["validation_perplexity"] for row in self.round if row["validation_perplexity"] != ""]
        row = {
            "epoch": epoch + 1,
            "reward": f"{learned.reward:.6g}",
            "baseline": f"{learned.baseline:.6g}",
            "entropy": f"{learned.entropy:.5f}",
            "loss": f"{learned.loss:.6g}",
            "validation_perplexity": f"{min(trained, default=math.inf):.4f}",
            "best_perplexity": f"{self.perplexities.get(self.best[0], math.inf):.4f}",
            "elapsed_s": f"{means['elapsed_s']:.1f}",
        }
        children, self.round = self.round, []
        return {self.log: [row], self.child_log: children}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the controller and what was judged."""
        tensors, facts = self.policy.state()
        judged = {"perplexities": self.perplexities, "best": self.best, "round": self.round}
        return tensors, {"policy": facts, "fastest_ms": self.fastest_ms, **judged}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.policy.restore(tensors, facts["policy"])
        self.perplexities, self.round = dict(facts["perplexities"]), list(facts["round"])
        text, reward = facts["best"]
        self.best, self.fastest_ms = (text, reward), facts["fastest_ms"]


def fresh_policy(recipe: RlTextRecipe, generator: torch.Generator) -> Policy:
    """Return a policy at its start."""
    shape = recipe.controller
    sizes = token_sizes(recipe.base)
    controller = TokenController(sizes, generator, hidden=shape.hidden, layers=shape.layers, bound=shape.init_range)
    return Policy(controller, recipe.policy)
