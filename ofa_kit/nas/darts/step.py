"""One step of a DARTS search: alphas by a batch of their own images, then weights by a batch of theirs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ofa_kit.nas.darts.alphas import Alphas, Mixture
from ofa_kit.nas.darts.gradients import Loss, Unrolled, alpha_gradient
from ofa_kit.nas.darts.latency import LatencyTerm
from ofa_kit.nas.darts.network import SearchNetwork
from ofa_kit.nas.darts.recipe import DartsRecipe

ALPHA_BETAS = (0.5, 0.999)
Batch = tuple[Tensor, Tensor]


class SearchStep:
    """Moves a search network and its alphas."""

    def __init__(
        self, network: SearchNetwork, alphas: Alphas, recipe: DartsRecipe, latency: LatencyTerm | None = None
    ) -> None:
        self.network, self.alphas, self.recipe, self.latency = network, alphas, recipe, latency
        self.weights = dict(network.named_parameters())
        self.sgd = torch.optim.SGD(
            self.weights.values(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.adam = torch.optim.Adam(
            alphas.tensors, lr=recipe.alpha_lr, betas=ALPHA_BETAS, weight_decay=recipe.alpha_weight_decay
        )

    def move_alphas(self, train: Batch, validation: Batch, lr: float) -> float:
        """Move the alphas by the loss on `validation` images and the latency; return that loss.

        `train` is the batch of the step of the weights that second order looks through, of the rate `lr`.
        """
        recipe = self.recipe
        found = alpha_gradient(
            recipe.order,
            self.loss_on(train),
            self.loss_on(validation),
            self.weights,
            self.alphas,
            buffers=self._momentum_buffers(),
            unrolled=Unrolled(lr, recipe.momentum, recipe.weight_decay),
        )
        gradients: Sequence[Tensor] = found.gradients
        if self.latency is not None:
            gradients = [
                g + extra.to(g) for g, extra in zip(gradients, self.latency.gradients(self.alphas), strict=True)
            ]
        for tensor, gradient in zip(self.alphas.tensors, gradients, strict=True):
            tensor.grad = gradient
        self.adam.step()
        return found.validation_loss

    def move_weights(self, train: Batch, lr: float, mixture: Mixture | None = None) -> float:
        """Move the weights by the loss on `train` images, under the alphas' mixture or another; return that loss."""
        images, labels = train
        self.sgd.zero_grad()
        mixture = mixture or self.alphas.mixture().detached()
        loss = F.cross_entropy(self.network(images, mixture), labels)
        loss.backward()
        if self.recipe.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.clip_grad_norm)
        for group in self.sgd.param_groups:
            group["lr"] = lr
        self.sgd.step()
        return loss.item()

    def loss_on(self, batch: Batch) -> Loss:
        """Return the loss of any weights and alphas on a batch."""
        images, labels = batch

        def loss(weights: "dict[str, Tensor]", alphas: Alphas) -> Tensor:
            return F.cross_entropy(functional_call(self.network, weights, (images, alphas.mixture())), labels)

        return loss  # type: ignore[return-value]

    def _momentum_buffers(self) -> dict[str, Tensor]:
        state = self.sgd.state
        found = {name: state[weight].get("momentum_buffer") for name, weight in self.weights.items()}
        return {name: buffer for name, buffer in found.items() if buffer is not None}
