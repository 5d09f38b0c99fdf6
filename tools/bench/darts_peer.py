"""A plain port of the authors' search (model_search.py, operations.py and architect.py of quark0/darts).

Written as they wrote it, for a PyTorch of today: every operation is computed on every edge and multiplied by its share,
`none` as zeros, and both steps leave all gradients to `backward`. Parameters stand in the order of our network's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRIMITIVES = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip
STEPS = 4
CLIP = 5.0


class Zero(nn.Module):
    """The operation none, computed."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0) if self.stride == 1 else x[:, :, :: self.stride, :: self.stride].mul(0.0)


class FactorizedReduce(nn.Module):
    """A skip-connection of stride 2."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(inside, outside // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(inside, outside // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(outside, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def relu_conv_bn(inside: int, outside: int) -> nn.Module:
    """Return what brings an input of a cell to its channels."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside, affine=False))


def separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """Return the parts of a separable convolution."""
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    return [nn.ReLU(), depthwise, pointwise, nn.BatchNorm2d(channels, affine=False)]


def operation(name: str, channels: int, stride: int) -> nn.Module:
    """Return an operation by name."""
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
    kernel = int(name[-1])
    if name.startswith("sep"):
        return nn.Sequential(*separable(channels, kernel, stride), *separable(channels, kernel, 1))
    if name.startswith("dil"):
        return nn.Sequential(*separable(channels, kernel, stride, 2))
    pool = (
        nn.MaxPool2d(3, stride=stride, padding=1)
        if name.startswith("max")
        else nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)
    )
    return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


class MixedOp(nn.Module):
    """All operations of an edge."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList(operation(name, channels, stride) for name in PRIMITIVES)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights, self._ops, strict=True))


class Cell(nn.Module):
    """A cell with all its edges."""

    def __init__(self, before2: int, before: int, channels: int, reduction: bool, after_reduction: bool) -> None:
        super().__init__()
        self.reduction = reduction
        first = FactorizedReduce if after_reduction else relu_conv_bn
        self.preprocess0, self.preprocess1 = first(before2, channels), relu_conv_bn(before, channels)
        self._ops = nn.ModuleList(
            MixedOp(channels, 2 if reduction and j < 2 else 1) for i in range(STEPS) for j in range(2 + i)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        offset = 0
        for _ in range(STEPS):
            s = sum(self._ops[offset + j](h, weights[offset + j]) for j, h in enumerate(states))
            offset += len(states)
            states.append(s)
        return torch.cat(states[-STEPS:], dim=1)


class Network(nn.Module):
    """The search network with its alphas."""

    def __init__(self, channels: int, classes: int, layers: int) -> None:
        super().__init__()
        self.arguments = (channels, classes, layers)
        current = 3 * channels
        self.stem = nn.Sequential(nn.Conv2d(3, current, 3, padding=1, bias=False), nn.BatchNorm2d(current))
        before2, before, current = current, current, channels
        self.cells = nn.ModuleList()
        after_reduction = False
        for index in range(layers):
            reduction = index in (layers // 3, 2 * layers // 3)
            current *= 2 if reduction else 1
            self.cells.append(Cell(before2, before, current, reduction, after_reduction))
            after_reduction, before2, before = reduction, before, STEPS * current
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, classes)
        edges = sum(2 + i for i in range(STEPS))
        self.alphas = [(1e-3 * torch.randn(edges, len(PRIMITIVES))).requires_grad_() for _ in range(2)]

    def new(self) -> "Network":
        made = Network(*self.arguments)
        for x, y in zip(made.alphas, self.alphas, strict=True):
            x.data.copy_(y.data)
        return made

    def forward(self, images: Tensor) -> Tensor:
        s0 = s1 = self.stem(images)
        for cell in self.cells:
            weights = F.softmax(self.alphas[1 if cell.reduction else 0], dim=-1)
            s0, s1 = s1, cell(s0, s1, weights)
        return self.classifier(self.global_pooling(s1).flatten(1))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self(images), labels)


def concat(tensors: "list[Tensor] | tuple[Tensor, ...]") -> Tensor:
    """Return all values in one row."""
    return torch.cat([x.view(-1) for x in tensors])


@dataclass
class Peer:
    """A network and what moves it, as in train_search.py and architect.py."""

    network: Network
    second_order: bool
    lr: float
    momentum: float = 0.9
    weight_decay: float = 3e-4

    def __post_init__(self) -> None:
        self.sgd = torch.optim.SGD(
            self.network.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        self.adam = torch.optim.Adam(self.network.alphas, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)

    def move_alphas(self, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> None:
        self.adam.zero_grad()
        if self.second_order:
            self._backward_unrolled(train, valid)
        else:
            self.network.loss(*valid).backward()
        self.adam.step()

    def move_weights(self, train: tuple[Tensor, Tensor]) -> float:
        self.sgd.zero_grad()
        loss = self.network.loss(*train)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.sgd.step()
        return float(loss.detach())

    def _unrolled(self, train: tuple[Tensor, Tensor]) -> Network:
        loss = self.network.loss(*train)
        theta = concat(list(self.network.parameters())).data
        try:
            moment = concat([self.sgd.state[v]["momentum_buffer"] for v in self.network.parameters()]).mul_(
                self.momentum
            )
        except KeyError:
            moment = torch.zeros_like(theta)
        gradients = torch.autograd.grad(loss, list(self.network.parameters()))
        dtheta = concat(gradients).data + self.weight_decay * theta
        moved = theta.sub(moment + dtheta, alpha=self.lr)
        model, offset = self.network.new(), 0
        state = self.network.state_dict()
        for name, value in self.network.named_parameters():
            state[name] = moved[offset : offset + value.numel()].view(value.size())
            offset += value.numel()
        model.load_state_dict(state)
        return model

    def _backward_unrolled(self, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> None:
        model = self._unrolled(train)
        model.loss(*valid).backward()
        dalpha = [v.grad for v in model.alphas]
        vector = [v.grad.data for v in model.parameters()]
        implicit = self._hessian_vector_product(vector, train)
        for g, ig in zip(dalpha, implicit, strict=True):
            g.data.sub_(ig.data, alpha=self.lr)
        for v, g in zip(self.network.alphas, dalpha, strict=True):
            v.grad = g.data.clone()

    def _hessian_vector_product(
        self, vector: list[Tensor], train: tuple[Tensor, Tensor], r: float = 1e-2
    ) -> list[Tensor]:
        radius = r / concat(vector).norm()

        def shifted(share: float) -> tuple[Tensor, ...]:
            for p, v in zip(self.network.parameters(), vector, strict=True):
                p.data.add_(v, alpha=float(share * radius))
            return torch.autograd.grad(self.network.loss(*train), self.network.alphas)

        plus, minus = shifted(1), shifted(-2)
        for p, v in zip(self.network.parameters(), vector, strict=True):
            p.data.add_(v, alpha=float(radius))
        return [(x - y).div_(2 * radius) for x, y in zip(plus, minus, strict=True)]
