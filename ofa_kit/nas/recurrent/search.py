"""DARTS's search of a recurrent cell: before each step of the weights, one of the alphas (Liu et al. 2019)."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call

from ofa_kit.data.text_batches import Columns
from ofa_kit.nas.darts.alphas import Alphas
from ofa_kit.nas.darts.gradients import Loss, Unrolled, Weights, alpha_gradient
from ofa_kit.nas.recurrent.alphas import RecurrentAlphas, derive
from ofa_kit.nas.recurrent.cell import State
from ofa_kit.nas.recurrent.dropout import Masks
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype, write_genotype
from ofa_kit.nas.recurrent.language_model import (
    LanguageModel,
    Passed,
    activation_penalty,
    cross_entropy,
    perplexity,
)
from ofa_kit.nas.recurrent.loop import Step
from ofa_kit.nas.recurrent.recipe import SearchRecipe
from ofa_kit.training import checkpoint


class DartsWork:
    """A search under way: weights learn from the training text, alphas from the validation text."""

    metrics = ("validation_perplexity", "alpha_loss", "entropy", "genotype")

    def __init__(
        self, model: LanguageModel, alphas: RecurrentAlphas, train: Columns, validation: Columns, recipe: SearchRecipe
    ) -> None:
        self.model, self.alphas, self.train, self.validation, self.recipe = model, alphas, train, validation, recipe
        self.optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.alpha_optimizer = torch.optim.Adam(
            alphas.tensors, lr=recipe.alpha_lr, weight_decay=recipe.alpha_weight_decay
        )
        self.masks = model.mask_drawer(recipe.dropout, recipe.batch)
        self.alpha_losses: list[float] = []
        self.begin_epoch()

    @property
    def genotype(self) -> RecurrentGenotype:
        """Return the cell that the alphas prefer now."""
        return derive(self.alphas.mixture(), self.recipe.nodes)

    def begin_epoch(self) -> None:
        self.state = self.validation_state = self.model.cell.start(self.recipe.batch)
        self.alpha_losses = []

    def step(self, step: Step) -> float:
        if step.epoch >= self.recipe.alpha_start:
            self._alpha_step(step)
        tokens, targets = step.segment.of(self.train)
        masks = self.masks.draw(step.generator)
        mixture = self.alphas.mixture().detach()
        passed = self.model(tokens, self.state, masks, mixture)
        loss = cross_entropy(passed, targets)
        self.optimizer.zero_grad()
        (loss + self._penalty(passed)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * step.share
        self.optimizer.step()
        self.state = tuple(tensor.detach() for tensor in passed.state)
        return loss.item()

    def _alpha_step(self, step: Step) -> None:
        """Move the alphas; the masks of one step are the same in all of its passes, else they would drown the rest."""
        recipe = self.recipe
        train_masks, validation_masks = self.masks.draw(step.generator), self.masks.draw(step.generator)
        weights = dict(self.model.named_parameters())
        train = step.segment.of(self.train)
        validation = self._validation_segment(step)
        seen: list[Passed] = []

        def train_loss(weights: Weights, alphas: Alphas) -> Tensor:
            passed = self._pass(weights, alphas, train[0], self.state, train_masks)
            return cross_entropy(passed, train[1]) + self._penalty(passed)

        def validation_loss(weights: Weights, alphas: Alphas) -> Tensor:
            seen.append(self._pass(weights, alphas, validation[0], self.validation_state, validation_masks))
            return cross_entropy(seen[-1], validation[1])

        if recipe.order != "first":
            train_loss = _clipped(train_loss, weights, cast(Alphas, self.alphas), recipe.clip)
        gradient = alpha_gradient(
            recipe.order,
            train_loss,
            validation_loss,
            weights,
            cast(Alphas, self.alphas),
            buffers={},
            unrolled=Unrolled(xi=recipe.lr * step.share, momentum=0.0, weight_decay=recipe.weight_decay),
        )
        for tensor, found in zip(self.alphas.tensors, gradient.gradients, strict=True):
            tensor.grad = found
        self.alpha_optimizer.step()
        self.validation_state = tuple(tensor.detach() for tensor in seen[-1].state)
        self.alpha_losses.append(gradient.validation_loss)

    def _validation_segment(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the validation rows beside a training segment; the shorter text starts again at its end."""
        start = step.segment.start % self.validation.rows
        rows = slice(start, start + step.segment.length)
        return self.validation.inputs[rows], self.validation.targets[rows]

    def _pass(self, weights: Weights, alphas: Alphas, tokens: Tensor, state: State, masks: Masks) -> Passed:
        passed: Passed = functional_call(self.model, dict(weights), (tokens, state, masks, alphas.mixture()))
        return passed

    def _penalty(self, passed: Passed) -> Tensor:
        return activation_penalty(passed, size=self.recipe.size_penalty, change=self.recipe.change_penalty)

    def end_epoch(self, epoch: int) -> Mapping[str, str]:
        with torch.no_grad():
            found = perplexity(self.model, self.validation, self.alphas.mixture())
        losses = self.alpha_losses
        return {
            "validation_perplexity": f"{found:.4f}",
            "alpha_loss": f"{sum(losses) / len(losses):.5f}" if losses else "",
            "entropy": f"{self.alphas.entropy():.5f}",
            "genotype": write_genotype(self.genotype),
        }

    def tensors(self) -> dict[str, Tensor]:
        states = {"state": self.state, "validation_state": self.validation_state}
        found = checkpoint.with_prefix("model", self.model.state_dict())
        found |= checkpoint.with_prefix("alphas", {"scores": self.alphas.scores})
        found |= checkpoint.with_prefix("alpha_optimizer", checkpoint.optimizer_tensors(self.alpha_optimizer))
        for name, state in states.items():
            found |= checkpoint.with_prefix(name, {str(n): tensor for n, tensor in enumerate(state)})
        return found

    def facts(self) -> dict[str, Any]:
        return {"alpha_losses": self.alpha_losses}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.model.load_state_dict(checkpoint.without_prefix("model", tensors))
        with torch.no_grad():
            self.alphas.scores.copy_(checkpoint.without_prefix("alphas", tensors)["scores"])
        checkpoint.restore_optimizer(self.alpha_optimizer, checkpoint.without_prefix("alpha_optimizer", tensors))
        self.state = restored_state(self.model, "state", tensors)
        self.validation_state = restored_state(self.model, "validation_state", tensors)
        self.alpha_losses = list(facts["alpha_losses"])


def restored_state(model: LanguageModel, name: str, tensors: Mapping[str, Tensor]) -> State:
    """Return the state of a checkpoint on the model's device."""
    found = checkpoint.without_prefix(name, tensors)
    return tuple(found[str(n)].to(model.bias.device) for n in range(model.cell.state_tensors))


def _clipped(loss: Loss, weights: Weights, alphas: Alphas, bound: float) -> Loss:
    """Return the loss scaled so that its gradient by the weights is the clipped one: that is the step that follows.

    The scale counts as a constant. Without it a step of lr 20 would be looked through that is never made.
    """
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    fixed = alphas.with_tensors([tensor.detach() for tensor in alphas.tensors])
    gradients = torch.autograd.grad(loss(leaves, fixed), list(leaves.values()))
    norm = torch.sqrt(torch.stack([gradient.square().sum() for gradient in gradients]).sum())
    scale = float((bound / (norm + 1e-6)).clamp(max=1.0))
    return lambda weights, alphas: scale * loss(weights, alphas)
