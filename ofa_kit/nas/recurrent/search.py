"""DARTS's search of a recurrent cell: before each step of the weights, one of the alphas (Liu et al. 2019)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call

from ofa_kit.data.text_batches import Columns, Segment
from ofa_kit.nas.darts.alphas import Alphas
from ofa_kit.nas.darts.gradients import Loss, Unrolled, Weights, alpha_gradient
from ofa_kit.nas.recurrent.alphas import RecurrentAlphas, derive
from ofa_kit.nas.recurrent.cell import State
from ofa_kit.nas.recurrent.dropout import Masks
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype, write_genotype
from ofa_kit.nas.recurrent.language_model import LanguageModel, Passed, cross_entropy, perplexity
from ofa_kit.nas.recurrent.recipe import SearchRecipe
from ofa_kit.nas.recurrent.work import TextWork, detached, generator_of, named
from ofa_kit.training import checkpoint
from ofa_kit.training.epochs import Numbers, Rows

COLUMNS = ("epoch", "loss", "alpha_loss", "validation_perplexity", "entropy", "genotype", "elapsed_s")


class DartsWork(TextWork):
    """A search under way: weights learn from the training text, alphas from the validation text."""

    def __init__(
        self,
        model: LanguageModel,
        alphas: RecurrentAlphas,
        train: Columns,
        validation: Columns,
        recipe: SearchRecipe,
        log: Path,
        seed: int,
    ) -> None:
        super().__init__(model, train, recipe, log, COLUMNS, seed)
        self.alphas, self.validation, self.search = alphas, validation, recipe
        self.alpha_optimizer = torch.optim.Adam(
            alphas.tensors, lr=recipe.alpha_lr, weight_decay=recipe.alpha_weight_decay
        )
        self.validation_state = self.carried

    @property
    def genotype(self) -> RecurrentGenotype:
        """Return the cell that the alphas prefer now."""
        return derive(self.alphas.mixture(), self.search.nodes)

    def begin_epoch(self) -> None:
        """Forget what was read of both texts."""
        super().begin_epoch()
        self.validation_state = self.carried

    def step(self, batch: Segment, epoch: int, step: int) -> Numbers:
        """Move the alphas, then the weights."""
        generator = generator_of(self.seed, epoch, step)
        losses = {}
        if epoch >= self.search.alpha_start:
            losses["alpha_loss"] = self.move_alphas(batch, generator)
        losses["loss"] = self.learn(batch, self.masks.draw(generator), self.alphas.mixture().detach())
        return losses

    def move_alphas(self, segment: Segment, generator: torch.Generator) -> float:
        """Move the alphas and return the validation loss of their gradient.

        The masks are the same in all passes of one gradient: fresh ones would drown the finite difference.
        """
        recipe, alphas = self.search, cast(Alphas, self.alphas)
        train_masks, validation_masks = self.masks.draw(generator), self.masks.draw(generator)
        weights = dict(self.model.named_parameters())
        train, validation = segment.of(self.train), self.validation_rows(segment)
        seen: list[Passed] = []

        def train_loss(weights: Weights, alphas: Alphas) -> Tensor:
            passed = self._pass(weights, alphas, train[0], self.carried, train_masks)
            return cross_entropy(passed, train[1]) + self.penalty(passed)

        def validation_loss(weights: Weights, alphas: Alphas) -> Tensor:
            seen.append(self._pass(weights, alphas, validation[0], self.validation_state, validation_masks))
            return cross_entropy(seen[-1], validation[1])

        gradient = alpha_gradient(
            recipe.order,
            train_loss if recipe.order == "first" else clipped(train_loss, weights, alphas, recipe.clip),
            validation_loss,
            weights,
            alphas,
            buffers={},
            unrolled=Unrolled(xi=recipe.lr * self.share(segment), momentum=0.0, weight_decay=recipe.weight_decay),
        )
        for tensor, found in zip(alphas.tensors, gradient.gradients, strict=True):
            tensor.grad = found
        self.alpha_optimizer.step()
        self.validation_state = detached(seen[-1].state)
        return gradient.validation_loss

    def validation_rows(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """Return the validation rows beside a training segment; the shorter text starts again at its end."""
        start = segment.start % self.validation.rows
        return Segment(segment.number, start, segment.length).of(self.validation)

    def end_epoch(self, epoch: int, means: Numbers) -> Rows:
        """Derive the cell and log it."""
        mixture = self.alphas.mixture().detach()
        row = {
            "epoch": epoch + 1,
            "loss": f"{means['loss']:.5f}",
            "alpha_loss": f"{means['alpha_loss']:.5f}" if "alpha_loss" in means else "",
            "validation_perplexity": f"{perplexity(self.model, self.validation, mixture):.4f}",
            "entropy": f"{self.alphas.entropy():.5f}",
            "genotype": write_genotype(self.genotype),
            "elapsed_s": f"{means['elapsed_s']:.1f}",
        }
        return {self.log: [row]}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return weights, alphas, Adam's moments, and what was read last."""
        found = self.state_tensors() | named("validation_state", self.validation_state)
        found |= checkpoint.with_prefix("alphas", {"scores": self.alphas.scores})
        return found | checkpoint.with_prefix("adam", checkpoint.optimizer_tensors(self.alpha_optimizer)), {}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.restore_tensors(tensors)
        with torch.no_grad():
            self.alphas.scores.copy_(tensors["alphas/scores"])
        checkpoint.restore_optimizer(self.alpha_optimizer, checkpoint.without_prefix("adam", tensors))
        self.validation_state = self.restored("validation_state", tensors)

    def _pass(self, weights: Weights, alphas: Alphas, tokens: Tensor, state: State, masks: Masks) -> Passed:
        passed: Passed = functional_call(self.model, dict(weights), (tokens, state, masks, alphas.mixture()))
        return passed


def clipped(loss: Loss, weights: Weights, alphas: Alphas, bound: float) -> Loss:
    """Return the loss scaled so that its gradient by the weights is the clipped one: that is the step that follows.

    The scale counts as a constant. Without it a step of lr 20 would be looked through that is never made.
    """
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    fixed = alphas.with_tensors([tensor.detach() for tensor in alphas.tensors])
    gradients = torch.autograd.grad(loss(leaves, fixed), list(leaves.values()))
    norm = torch.sqrt(torch.stack([gradient.square().sum() for gradient in gradients]).sum())
    scale = float((bound / (norm + 1e-6)).clamp(max=1.0))
    return lambda weights, alphas: scale * loss(weights, alphas)
