"""REINFORCE with a moving-average baseline and an entropy bonus (Williams 1992; Zoph & Le 2017; Pham et al. 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ofa_kit.nas.reinforce.controller import Controller
from ofa_kit.nas.reinforce.decisions import Decisions
from ofa_kit.training import checkpoint


@dataclass(frozen=True, kw_only=True)
class PolicyRecipe:
    """How a controller learns."""

    lr: float = 3.5e-4
    """Adam's."""
    beta1: float = 0.9
    eps: float = 1e-8
    entropy_weight: float = 0.0
    baseline_decay: float = 0.99
    """Share of the old baseline that a round of rewards leaves."""
    penalty_weight: float = 0.0
    """Of what the controller adds to `Decisions.penalty`."""
    max_norm: float | None = None
    """Gradients are scaled down to this norm."""


@dataclass(frozen=True)
class Learned:
    """Means of one round, before its update."""

    loss: float
    reward: float
    """Without the entropy bonus."""
    baseline: float
    """What rewards were compared with."""
    entropy: float
    penalty: float


class Policy:
    """A controller, its optimizer and its baseline."""

    def __init__(self, controller: Controller, recipe: PolicyRecipe) -> None:
        self.controller, self.recipe = controller, recipe
        self.adam = torch.optim.Adam(controller.parameters(), lr=recipe.lr, betas=(recipe.beta1, 0.999), eps=recipe.eps)
        self.baseline: float | None = None
        """Moving average of rewards with their entropy bonus; none before the first round."""

    def sample(self, count: int, generator: torch.Generator) -> Decisions:
        """Return the decisions of `count` architectures."""
        return self.controller.sample(count, generator)

    def update(self, tokens: Tensor, rewards: Sequence[float]) -> Learned:
        """Learn from (N, T) tokens and their rewards: one step up E[reward] + entropy_weight * entropy."""
        self.adam.zero_grad()
        found = self.add_gradients(tokens, rewards)
        if self.recipe.max_norm is not None:
            nn.utils.clip_grad_norm_(self.controller.parameters(), self.recipe.max_norm)
        self.adam.step()
        return found

    def add_gradients(self, tokens: Tensor, rewards: Sequence[float]) -> Learned:
        """Add the gradient of a round to the controller's and move the baseline.

        Rewards are compared with the baseline of earlier rounds, and in the first round each with the mean of the
        others: neither depends on the architecture that is judged, so the gradient is unbiased.
        """
        decisions, recipe = self.controller.score(tokens), self.recipe
        given = torch.tensor(rewards, dtype=decisions.log_prob.dtype)
        gains = given + recipe.entropy_weight * decisions.entropy.detach()
        against = self._against(gains)
        loss = (
            -((gains - against) * decisions.log_prob).mean()
            - recipe.entropy_weight * decisions.entropy.mean()
            + recipe.penalty_weight * decisions.penalty.mean()
        )
        loss.backward()
        old, mean = self.baseline, float(gains.mean())
        self.baseline = mean if old is None else recipe.baseline_decay * old + (1 - recipe.baseline_decay) * mean
        return Learned(
            loss=loss.item(),
            reward=float(given.mean()),
            baseline=float(against.mean()),
            entropy=decisions.entropy.mean().item(),
            penalty=decisions.penalty.mean().item(),
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and plain facts that bring the policy back to where it stands."""
        tensors = checkpoint.with_prefix("controller", self.controller.state_dict())
        tensors |= checkpoint.with_prefix("adam", checkpoint.optimizer_tensors(self.adam))
        return tensors, {"baseline": self.baseline}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to a state; tensors of others beside it are left alone."""
        self.controller.load_state_dict(checkpoint.without_prefix("controller", tensors))
        checkpoint.restore_optimizer(self.adam, checkpoint.without_prefix("adam", tensors))
        self.baseline = facts["baseline"]

    def _against(self, gains: Tensor) -> Tensor:
        if self.baseline is not None:
            return torch.full_like(gains, self.baseline)
        others = len(gains) - 1
        return (gains.sum() - gains) / others if others else torch.zeros_like(gains)
