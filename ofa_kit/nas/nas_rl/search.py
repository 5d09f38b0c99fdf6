"""The search by NAS-RL in rounds: sample children, time and train them, let the controller learn from their rewards.

A round's result depends on the rows of its children, not on when or where they were trained; the controller is saved
after each round, so that a killed search goes on to the same result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ofa_kit import storage
from ofa_kit.errors import RunError, TableError
from ofa_kit.nas.nas_rl.children import Child, Children
from ofa_kit.nas.nas_rl.controller import ConvController
from ofa_kit.nas.nas_rl.conv_net import ChildShape, ConvNet, PlacedNet
from ofa_kit.nas.nas_rl.engine import Engine, Failed
from ofa_kit.nas.nas_rl.recipe import NasRlRecipe
from ofa_kit.nas.nas_rl.text import write_conv_net
from ofa_kit.nas.nas_rl.training import ChildResult
from ofa_kit.nas.reinforce.policy import Learned, Policy
from ofa_kit.supernet.one_thread import one_thread
from ofa_kit.training import checkpoint

CHILDREN, CONTROLLER = "children.csv", "controller.csv"
COLUMNS = ("round", "layers", "children", "failed", "mean_reward", "best_reward", "baseline", "entropy", "penalty")
Latencies = Callable[[Sequence[ConvNet]], Mapping[str, float]]
"""Measures the latency of networks, ms by key."""


@dataclass(frozen=True)
class Round:
    """What a watcher sees after each round."""

    number: int
    layers: int
    children: list[Child]
    learned: Learned


class Search:
    """A controller, its random numbers and the children so far."""

    def __init__(
        self,
        recipe: NasRlRecipe,
        shape: ChildShape,
        folder: Path,
        checkpoint_file: Path,
        latencies: Latencies | None = None,
    ) -> None:
        self.recipe, self.shape, self.latencies, self.file = recipe, shape, latencies, checkpoint_file
        self.log = folder / CONTROLLER
        self.term = recipe.latency_term
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.controller = ConvController(
            recipe.space,
            recipe.layers,
            self.generator,
            hidden=recipe.controller_hidden,
            layers=recipe.controller_layers,
            bound=recipe.controller_bound,
        )
        self.policy = Policy(self.controller, recipe.policy)
        self.round = 0
        """Rounds that are done."""
        self.children = Children(folder / CHILDREN)
        if checkpoint_file.exists():
            self._restore()
        kept = [row for row in storage.read_rows(self.log, COLUMNS) if int(row["round"]) <= self.round]
        storage.keep_rows(self.log, COLUMNS, kept)

    @property
    def rounds(self) -> int:
        return -(-self.recipe.children // self.recipe.round_size)

    def run(
        self,
        engine: Engine,
        *,
        watch: Callable[[Round], None] = lambda found: None,
        watch_child: Callable[[Child], None] = lambda child: None,
    ) -> None:
        """Do the rounds that are left."""
        while self.round < self.rounds:
            watch(self._round(engine, watch_child))

    def _round(self, engine: Engine, watch_child: Callable[[Child], None]) -> Round:
        first = self.round * self.recipe.round_size
        count = min(self.recipe.round_size, self.recipe.children - first)
        depth = self.recipe.depth_after(first)
        self.policy.controller = self.controller.at_depth(depth)
        with one_thread():
            tokens = self.policy.sample(count, self.generator).tokens
        nets = {first + place: self.recipe.space.read(row) for place, row in enumerate(tokens.tolist(), start=1)}
        children = self._judged(nets, engine, watch_child)
        self._refuse_all_failed(children)
        with one_thread():
            learned = self.policy.update(tokens, [child.reward for child in children])
        found = Round(self.round + 1, depth, children, learned)
        storage.append_rows(self.log, COLUMNS, [_row(found)])
        self.round += 1
        self._save()
        return found

    def _judged(self, nets: Mapping[int, ConvNet], engine: Engine, watch_child: Callable[[Child], None]) -> list[Child]:
        """Return the children of the round, training those that no row tells of."""
        self._refuse_others(nets)
        latency_ms = self.latencies(list(nets.values())) if self.latencies else {}
        missing: dict[ConvNet, list[int]] = {}
        for number, net in nets.items():
            if number not in self.children.all:
                missing.setdefault(net, []).append(number)
        for children in self._results(missing, latency_ms, engine):
            self.children.add(children)
            for child in children:
                watch_child(child)
        return self.children.of_round(self.round + 1)

    def _results(
        self, missing: Mapping[ConvNet, Sequence[int]], latency_ms: Mapping[str, float], engine: Engine
    ) -> Iterator[list[Child]]:
        """Yield the children of each network; those that need no training first."""
        untrained = []
        for net, numbers in missing.items():
            known = self.children.trained(net.key)
            if known is not None:
                assert known.top1 is not None
                yield self._rows(net, numbers, latency_ms, ChildResult(known.top1, 0.0))
            elif self._factor(net, latency_ms) == 0:
                yield self._rows(net, numbers, latency_ms, None)
            else:
                untrained.append(net)
        for net, result in engine.train(untrained):
            yield self._rows(net, missing[net], latency_ms, result)

    def _rows(
        self,
        net: ConvNet,
        numbers: Sequence[int],
        latency_ms: Mapping[str, float],
        result: ChildResult | Failed | None,
    ) -> list[Child]:
        """Return equal children, of which the first one took the time."""
        placed = PlacedNet.of(net, self.shape)
        top1 = round(result.top1, 4) if isinstance(result, ChildResult) else None
        seconds = round(result.seconds, 3) if isinstance(result, ChildResult) else 0.0
        reward = (top1 / 100) ** self.recipe.reward_power * self._factor(net, latency_ms) if top1 is not None else 0.0
        return [
            Child(
                round=self.round + 1,
                number=number,
                key=net.key,
                text=write_conv_net(net),
                top1=top1,
                reward=round(reward, 8),
                latency_ms=round(latency_ms[net.key], 6) if net.key in latency_ms else None,
                params=placed.params,
                macs=placed.macs,
                seconds=seconds if place == 0 else 0.0,
                error=" ".join(result.error.split()) if isinstance(result, Failed) else "",
            )
            for place, number in enumerate(numbers)
        ]

    def _factor(self, net: ConvNet, latency_ms: Mapping[str, float]) -> float:
        return self.term.factor(latency_ms[net.key]) if self.term else 1.0

    def _refuse_others(self, nets: Mapping[int, ConvNet]) -> None:
        """Raise a TableError where the rows of this round are of other children than are sampled now."""
        for child in self.children.of_round(self.round + 1):
            if child.number not in nets or nets[child.number].key != child.key:
                raise TableError(
                    f"'{self.children.path}' holds another child {child.number} than this search samples; it is of "
                    "another search or another version of PyTorch: delete the rows of this round, or start another run"
                )

    def _refuse_all_failed(self, children: Sequence[Child]) -> None:
        """Raise a RunError where no child of this search has ever been trained to its end."""
        failed = [child for child in children if child.error]
        if failed and len(failed) == len(children) and self.children.best() is None:
            raise RunError(
                f"all {len(failed)} children of round {self.round + 1} failed and none before succeeded; the first: "
                f"{failed[0].error}. Start another run with other settings (lr, memory_mb)"
            )

    def _save(self) -> None:
        tensors, facts = self.policy.state()
        tensors["generator"] = self.generator.get_state()
        checkpoint.save(self.file, tensors, {**facts, "round": self.round})

    def _restore(self) -> None:
        tensors, facts = checkpoint.load(self.file)
        self.policy.restore(tensors, facts)
        self.generator.set_state(tensors["generator"])
        self.round = int(facts["round"])


def _row(found: Round) -> dict[str, object]:
    return {
        "round": found.number,
        "layers": found.layers,
        "children": len(found.children),
        "failed": sum(bool(child.error) for child in found.children),
        "mean_reward": f"{found.learned.reward:.6f}",
        "best_reward": f"{max(child.reward for child in found.children):.6f}",
        "baseline": f"{found.learned.baseline:.6f}",
        "entropy": f"{found.learned.entropy:.6f}",
        "penalty": f"{found.learned.penalty:.6f}",
    }
