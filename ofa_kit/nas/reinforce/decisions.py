"""The decisions of a batch of architectures, drawn at random or replayed, with what REINFORCE asks of them."""

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F


class Decisions:
    """What a controller decides for N architectures at once, token by token.

    A controller walks through the same calls whether its tokens are drawn or replayed, so both give the same
    log-probabilities.
    """

    def __init__(self, count: int, generator: torch.Generator | None, given: Tensor | None) -> None:
        self.count, self.generator, self.given = count, generator, given
        self.columns: list[Tensor] = []
        self.log_prob = torch.zeros(count)
        """(N,): of all tokens together."""
        self.entropy = torch.zeros(count)
        """(N,): summed over the choices on the way; its mean is an unbiased estimate of the policy's entropy."""
        self.penalty = torch.zeros(count)
        """(N,): what a controller adds, such as `kl_to_target` of skip connections."""

    @classmethod
    def drawn(cls, count: int, generator: torch.Generator) -> Self:
        """Decide for `count` architectures at random."""
        return cls(count, generator, None)

    @classmethod
    def replayed(cls, tokens: Tensor) -> Self:
        """Decide as (N, T) tokens say."""
        return cls(len(tokens), None, tokens)

    @property
    def tokens(self) -> Tensor:
        """Return all tokens so far, (N, T)."""
        return torch.stack(self.columns, 1) if self.columns else torch.zeros(self.count, 0, dtype=torch.long)

    def choose(self, logits: Tensor) -> Tensor:
        """Return one of C choices for each architecture, (N,), by logits (N, C).

        A choice is ruled out by a large negative number; infinity has no gradient.
        """
        log_probs = F.log_softmax(logits, 1)
        probs = log_probs.exp()
        chosen = self._given(1)[:, 0] if self.given is not None else self._drawn(probs)
        self.columns.append(chosen)
        self.log_prob = self.log_prob + log_probs.gather(1, chosen[:, None])[:, 0]
        self.entropy = self.entropy - (probs * log_probs).sum(1)
        return chosen

    def flip(self, logits: Tensor) -> Tensor:
        """Return K answers of 0 or 1 for each architecture, (N, K), each by the logit of its 1."""
        probs = logits.sigmoid()
        if self.given is not None:
            chosen = self._given(logits.shape[1])
        else:
            draw = torch.rand(probs.shape, generator=self.generator)
            chosen = (draw < probs.detach().cpu()).long()
        self.columns.extend(chosen.unbind(1))
        self.log_prob = self.log_prob - F.binary_cross_entropy_with_logits(
            logits, chosen.to(logits.dtype), reduction="none"
        ).sum(1)
        self.entropy = self.entropy + (F.softplus(logits) - logits * probs).sum(1)
        return chosen

    def _drawn(self, probs: Tensor) -> Tensor:
        return torch.multinomial(probs.detach(), 1, generator=self.generator)[:, 0]

    def _given(self, count: int) -> Tensor:
        assert self.given is not None
        start = len(self.columns)
        found = self.given[:, start : start + count]
        assert found.shape[1] == count, f"{self.given.shape[1]} tokens are too few for this controller"
        return found


def kl_to_target(logits: Tensor, target: float) -> Tensor:
    """Return (N,): divergence of skip connections' probabilities, logits (N, K), from a target (Pham et al. 2018)."""
    probs = logits.sigmoid()
    on = probs * (F.logsigmoid(logits) - torch.tensor(target).log())
    off = (1 - probs) * (F.logsigmoid(-logits) - torch.tensor(1 - target).log())
    return (on + off).sum(1)
