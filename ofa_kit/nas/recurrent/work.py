"""Work on a text in epochs of segments: what every search and training of a language model here has.

What is drawn in a step comes from (seed, epoch, step), and where an epoch is cut from (seed, epoch): so a resumed epoch
goes on with the same segments and masks.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ofa_kit.data.text_batches import Columns, Segment, segments
from ofa_kit.nas.recurrent.cell import State
from ofa_kit.nas.recurrent.dropout import Masks
from ofa_kit.nas.recurrent.language_model import LanguageModel, Passed, activation_penalty, cross_entropy
from ofa_kit.nas.recurrent.recipe import ReadingRecipe
from ofa_kit.training import checkpoint


def generator_of(*numbers: int) -> torch.Generator:
    """Return a generator that depends on all numbers."""
    return torch.Generator().manual_seed(int(np.random.default_rng(numbers).integers(2**62)))


class TextWork:
    """A language model that reads columns of text and moves its weights by SGD; see `training.epochs.Work`."""

    def __init__(
        self,
        model: LanguageModel,
        train: Columns,
        recipe: ReadingRecipe,
        log: Path,
        columns: Sequence[str],
        seed: int,
    ) -> None:
        self.model, self.train, self.recipe, self.log, self.seed = model, train, recipe, log, seed
        self.epochs, self.ended_early = recipe.epochs, False
        self.lr = recipe.lr
        """Of a segment of the usual length."""
        self.logs: Mapping[Path, Sequence[str]] = {log: columns}
        self.steps_per_epoch = -(-train.rows // recipe.bptt)
        """Of the epoch under way: epochs are cut in different places."""
        self.batch = train.inputs.shape[1]
        self.optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.masks = model.mask_drawer(recipe.dropout, self.batch)
        self.carried = model.cell.start(self.batch)

    def batches(self, epoch: int, start: int) -> Iterator[Segment]:
        """Return the segments of an epoch from number `start` on; the first one starts with an empty state."""
        rng = np.random.default_rng([self.seed, epoch])
        found = segments(self.train.rows, self.recipe.bptt, rng, deviation=self.recipe.deviation)
        self.steps_per_epoch = len(found)
        if not start:
            self.begin_epoch()
        return iter(found[start:])

    def begin_epoch(self) -> None:
        """Forget what was read before."""
        self.carried = self.model.cell.start(self.batch)

    def share(self, segment: Segment) -> float:
        """Return a segment's length by the usual one: learning rates are scaled by it."""
        return segment.length / self.recipe.bptt

    def learn(self, segment: Segment, masks: Masks, choice: Any = None) -> float:
        """Move the weights by one segment and return its mean cross-entropy in nats."""
        tokens, targets = segment.of(self.train)
        passed = self.model(tokens, self.carried, masks, choice)
        loss = cross_entropy(passed, targets)
        self.optimizer.zero_grad()
        (loss + self.penalty(passed)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.share(segment)
        self.optimizer.step()
        self.carried = detached(passed.state)
        return loss.item()

    def penalty(self, passed: Passed) -> Tensor:
        """Return what is added to the cross-entropy in training."""
        return activation_penalty(passed, size=self.recipe.size_penalty, change=self.recipe.change_penalty)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return weights and state of the cell by name."""
        return checkpoint.with_prefix("model", self.model.state_dict()) | named("state", self.carried)

    def restore_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `state_tensors` gave."""
        self.model.load_state_dict(checkpoint.without_prefix("model", tensors))
        self.carried = self.restored("state", tensors)

    def restored(self, name: str, tensors: Mapping[str, Tensor]) -> State:
        """Return a state that was `named`."""
        found = checkpoint.without_prefix(name, tensors)
        return tuple(found[str(n)].to(self.model.bias.device) for n in range(len(found)))


def detached(state: State) -> State:
    """Return a state from which no gradient goes back."""
    return tuple(tensor.detach() for tensor in state)


def named(name: str, state: State) -> dict[str, Tensor]:
    """Return the tensors of a state by name."""
    return checkpoint.with_prefix(name, {str(n): tensor for n, tensor in enumerate(state)})
