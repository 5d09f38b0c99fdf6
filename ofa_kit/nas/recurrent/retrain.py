"""Training a language model from scratch: SGD, then its average once validation stops to gain (Merity et al. 2018)."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ofa_kit.data.text_batches import Columns, Segment
from ofa_kit.nas.recurrent.language_model import LanguageModel, perplexity
from ofa_kit.nas.recurrent.recipe import TrainRecipe
from ofa_kit.nas.recurrent.work import TextWork, generator_of
from ofa_kit.training import checkpoint
from ofa_kit.training.epochs import Numbers, Rows

COLUMNS = ("epoch", "loss", "validation_perplexity", "best_perplexity", "averaged", "elapsed_s")


class TrainWork(TextWork):
    """Training under way; what counts in the end are the weights, or the average, of the best validation epoch."""

    def __init__(
        self, model: LanguageModel, train: Columns, validation: Columns, recipe: TrainRecipe, log: Path, seed: int
    ) -> None:
        super().__init__(model, train, recipe, log, COLUMNS, seed)
        self.validation, self.patience = validation, recipe.patience
        self.average: dict[str, Tensor] = {}
        self.averaged = 0
        """Steps in the average; 0 = it has not begun."""
        self.history: list[float] = []
        """Validation perplexity of each epoch."""
        self.best = copy.deepcopy(model)

    def step(self, batch: Segment, epoch: int, step: int) -> Numbers:
        """Move the weights, and their average behind them."""
        loss = self.learn(batch, self.masks.draw(generator_of(self.seed, epoch, step)))
        if self.average:
            self._follow()
        return {"loss": loss}

    @torch.no_grad()
    def _follow(self) -> None:
        """Take the weights into their mean: with a constant rate that is ASGD (Polyak and Juditsky 1992)."""
        self.averaged += 1
        for name, tensor in self.model.state_dict().items():
            self.average[name] += (tensor - self.average[name]) / self.averaged

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Validate, keep the best, and begin to average where it is time to."""
        judged = self.model
        if self.averaged:
            judged = copy.deepcopy(self.model)
            judged.load_state_dict(self.average)
        found = perplexity(judged, self.validation)
        if not self.history or found < min(self.history):
            self.best.load_state_dict(judged.state_dict())
        earlier = self.history[: -self.patience]
        row = {
            "epoch": epoch + 1,
            "loss": f"{means['loss']:.5f}",
            "validation_perplexity": f"{found:.4f}",
            "best_perplexity": f"{min([found, *self.history]):.4f}",
            "averaged": bool(self.averaged),
            "elapsed_s": f"{means['elapsed_s']:.1f}",
        }
        if not self.average and earlier and found > min(earlier):
            self.average = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.history.append(found)
        return {self.log: [row]}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return weights, the best ones, the average, and what was read last."""
        found = self.state_tensors() | checkpoint.with_prefix("best", self.best.state_dict())
        return found | checkpoint.with_prefix("average", self.average), {
            "averaged": self.averaged,
            "history": self.history,
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.restore_tensors(tensors)
        self.best.load_state_dict(checkpoint.without_prefix("best", tensors))
        device, average = self.model.bias.device, checkpoint.without_prefix("average", tensors)
        self.average = {name: tensor.to(device) for name, tensor in average.items()}
        self.averaged, self.history = int(facts["averaged"]), list(facts["history"])
