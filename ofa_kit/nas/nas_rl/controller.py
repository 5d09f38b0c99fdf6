"""The controller of convolutional networks: an LSTM that decides layer by layer, with anchors for skip connections."""

import copy

import torch
from torch import Tensor, nn

from ofa_kit.nas.nas_rl.space import ConvSpace
from ofa_kit.nas.reinforce.controller import Controller, StackedLstm, draw_uniform
from ofa_kit.nas.reinforce.decisions import Decisions


class ConvController(Controller):
    """Decides networks of `depth` layers (Zoph & Le 2017, sec. 3.1 and 3.3).

    At the anchor of layer i each earlier layer j is read with probability sigmoid(v' tanh(W_prev h_j + W_curr h_i)),
    h being the LSTM's outputs at the anchors. Every layer is decided with the same weights, so that networks can
    become deeper while the controller learns. What the paper leaves open: the step after an anchor takes in the mean
    of the anchors that were chosen.
    """

    def __init__(
        self,
        space: ConvSpace,
        depth: int,
        generator: torch.Generator,
        *,
        hidden: int = 35,
        layers: int = 2,
        bound: float = 0.08,
    ) -> None:
        super().__init__()
        self.space, self.depth = space, depth
        sizes = [len(choices) for choices in space.open_kinds]
        self.lstm = StackedLstm(hidden, layers)
        self.first = nn.Parameter(torch.empty(hidden))
        self.embeddings = nn.ModuleList(nn.Embedding(size, hidden) for size in sizes)
        self.heads = nn.ModuleList(nn.Linear(hidden, size, bias=False) for size in sizes)
        self.previous = nn.Linear(hidden, hidden, bias=False)
        self.current = nn.Linear(hidden, hidden, bias=False)
        self.reads = nn.Linear(hidden, 1, bias=False)
        draw_uniform(self, bound, generator)

    def at_depth(self, depth: int) -> "ConvController":
        """Return a controller of networks with so many layers; it shares this one's weights."""
        other = copy.copy(self)
        other.depth = depth
        return other

    def walk(self, decisions: Decisions) -> None:
        state = self.lstm.start(decisions.count)
        inputs = self.first.expand(decisions.count, -1)
        anchors: list[Tensor] = []
        for _ in range(self.depth):
            for head, embedding in zip(self.heads, self.embeddings, strict=True):
                output, state = self.lstm(inputs, state)
                inputs = embedding(decisions.choose(head(output)))
            if not self.space.skips:
                continue
            anchor, state = self.lstm(inputs, state)
            inputs = self._after(anchor, anchors, decisions)
            anchors.append(anchor)

    def _after(self, anchor: Tensor, anchors: list[Tensor], decisions: Decisions) -> Tensor:
        """Decide which earlier anchors (N, H) are read; return what the next step takes in."""
        if not anchors:
            return self.first.expand(decisions.count, -1)
        earlier = torch.stack(anchors, 1)
        logits = self.reads(torch.tanh(self.previous(earlier) + self.current(anchor)[:, None]))[:, :, 0]
        chosen = decisions.flip(logits).to(earlier)[:, :, None]
        mean = (chosen * earlier).sum(1) / chosen.sum(1).clamp(min=1)
        return torch.where(chosen.sum(1) > 0, mean, self.first)
