"""The controller of a macro search: for each layer an operation, then a yes or no for each earlier output."""

import torch
from torch import Tensor, nn

from ofa_kit.nas.enas.macro_arc import OPERATIONS, MacroArc
from ofa_kit.nas.reinforce.controller import Controller, StackedLstm, draw_uniform, squashed
from ofa_kit.nas.reinforce.decisions import Decisions, kl_to_target

SKIP_TARGET = 0.4


class MacroController(Controller):
    """One LSTM that goes through the layers (Pham et al. 2018, sec. 2.3).

    Its penalty is the divergence of the skip connections from `skip_target`, the mean over layers of the sum over a
    layer's connections, as the authors weigh it. They compute it of the sigmoid of half the logit that is drawn by;
    here it is that of the probabilities themselves.
    """

    def __init__(
        self,
        layers: int,
        generator: torch.Generator,
        *,
        hidden: int = 64,
        bound: float = 0.1,
        temperature: float = 5.0,
        tanh_constant: float = 1.5,
        skip_target: float = SKIP_TARGET,
    ) -> None:
        super().__init__()
        self.layers, self.temperature, self.tanh_constant = layers, temperature, tanh_constant
        self.skip_target = skip_target
        self.lstm = StackedLstm(hidden, 1)
        self.first = nn.Parameter(torch.empty(hidden))
        self.embedding = nn.Embedding(len(OPERATIONS), hidden)
        self.operation = nn.Linear(hidden, len(OPERATIONS), bias=False)
        self.key, self.query = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.value = nn.Linear(hidden, 1, bias=False)
        draw_uniform(self, bound, generator)

    def walk(self, decisions: Decisions) -> None:
        state = self.lstm.start(decisions.count)
        inputs = self.first.expand(decisions.count, -1)
        anchors: list[Tensor] = []
        for layer in range(self.layers):
            output, state = self.lstm(inputs, state)
            output, state = self.lstm(self.embedding(decisions.choose(self._squashed(self.operation(output)))), state)
            inputs = self._skips(decisions, output, anchors) if layer else self.first.expand(decisions.count, -1)
            anchors.append(output)

    def arcs(self, tokens: Tensor) -> list[MacroArc]:
        """Return the arcs that (N, T) tokens decide."""
        return [MacroArc.of_numbers(row) for row in tokens.tolist()]

    def _skips(self, decisions: Decisions, output: Tensor, anchors: list[Tensor]) -> Tensor:
        """Decide the skip connections of a layer and return what the LSTM reads next."""
        before = torch.stack(anchors, 1)
        scores = self.value(torch.tanh(self.key(before) + self.query(output)[:, None]))[..., 0]
        logits = 2 * self._squashed(scores)  # of yes against no, which have the score and its negative
        decisions.penalty = decisions.penalty + kl_to_target(logits, self.skip_target) / (self.layers - 1)
        chosen = decisions.flip(logits).to(output.dtype)
        return torch.bmm(chosen[:, None], before)[:, 0] / (1 + chosen.sum(1, keepdim=True))

    def _squashed(self, logits: Tensor) -> Tensor:
        return squashed(logits, temperature=self.temperature, tanh_constant=self.tanh_constant)
