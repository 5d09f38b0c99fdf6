"""Training a language model from scratch: SGD, then its average once validation stops to gain (Merity et al. 2018)."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ofa_kit.data.text_batches import Columns
from ofa_kit.nas.recurrent.language_model import LanguageModel, activation_penalty, cross_entropy, perplexity
from ofa_kit.nas.recurrent.loop import Step
from ofa_kit.nas.recurrent.recipe import TrainRecipe
from ofa_kit.nas.recurrent.search import restored_state
from ofa_kit.training import checkpoint


class TrainWork:
    """Training under way; what counts in the end are the weights, or the average, of the best validation epoch."""

    metrics = ("validation_perplexity", "best_perplexity", "averaged")

    def __init__(self, model: LanguageModel, train: Columns, validation: Columns, recipe: TrainRecipe) -> None:
        self.model, self.train, self.validation, self.recipe = model, train, validation, recipe
        self.optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.masks = model.mask_drawer(recipe.dropout, train.inputs.shape[1])
        self.average: dict[str, Tensor] = {}
        self.averaged = 0
        """Steps in the average; 0 = it has not begun."""
        self.history: list[float] = []
        """Validation perplexity of each epoch."""
        self.best = copy.deepcopy(model)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.state = self.model.cell.start(self.train.inputs.shape[1])

    def step(self, step: Step) -> float:
        recipe = self.recipe
        tokens, targets = step.segment.of(self.train)
        passed = self.model(tokens, self.state, self.masks.draw(step.generator))
        loss = cross_entropy(passed, targets)
        penalty = activation_penalty(passed, size=recipe.size_penalty, change=recipe.change_penalty)
        self.optimizer.zero_grad()
        (loss + penalty).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * step.share
        self.optimizer.step()
        self.state = tuple(tensor.detach() for tensor in passed.state)
        if self.average:
            self._follow()
        return loss.item()

    @torch.no_grad()
    def _follow(self) -> None:
        """Take the weights into their mean: with a constant rate that is ASGD (Polyak and Juditsky 1992)."""
        self.averaged += 1
        for name, tensor in self.model.state_dict().items():
            self.average[name] += (tensor - self.average[name]) / self.averaged

    def end_epoch(self, epoch: int) -> Mapping[str, str]:
        judged = self.model
        if self.averaged:
            judged = copy.deepcopy(self.model)
            judged.load_state_dict(self.average)
        found = perplexity(judged, self.validation)
        if not self.history or found < min(self.history):
            self.best.load_state_dict(judged.state_dict())
        earlier = self.history[: -self.recipe.patience]
        if not self.average and earlier and found > min(earlier):
            self.average = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.history.append(found)
        return {
            "validation_perplexity": f"{found:.4f}",
            "best_perplexity": f"{min(self.history):.4f}",
            "averaged": str(bool(self.averaged)),
        }

    def tensors(self) -> dict[str, Tensor]:
        found = checkpoint.with_prefix("model", self.model.state_dict())
        found |= checkpoint.with_prefix("best", self.best.state_dict())
        found |= checkpoint.with_prefix("average", self.average)
        return found | checkpoint.with_prefix("state", {str(n): tensor for n, tensor in enumerate(self.state)})

    def facts(self) -> dict[str, Any]:
        return {"averaged": self.averaged, "history": self.history}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.model.load_state_dict(checkpoint.without_prefix("model", tensors))
        self.best.load_state_dict(checkpoint.without_prefix("best", tensors))
        device = self.model.bias.device
        self.average = {
            name: tensor.to(device) for name, tensor in checkpoint.without_prefix("average", tensors).items()
        }
        self.state = restored_state(self.model, "state", tensors)
        self.averaged, self.history = int(facts["averaged"]), list(facts["history"])
