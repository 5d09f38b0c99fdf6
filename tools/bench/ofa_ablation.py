"""What each optimisation of our training step gives: the same steps with one of them turned off at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from ofa_speed import Settings
from ofa_steps import (
    SPACE,
    OurTrainer,
    RemoteTrainer,
    Step,
    cases,
    geometric_mean,
    interleaved,
    machine,
    our_trainer,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layer import Layer
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.supernet import elastic, elastic_blocks
from ofa_kit.supernet.elastic import ElasticPooledConv, Noise, State
from ofa_kit.supernet.elastic_blocks import ElasticInvertedResidual
from ofa_kit.supernet.supernet import Supernet, resize
from ofa_kit.training.allocator import keep_freed_memory

Patch = Callable[[], AbstractContextManager[Any]]
SAME_LOSS = 1e-4
"""Relative: with an optimisation off, the first loss of a case stays what it was."""
ENDLESS = 2**16
"""A feature map that no kernel reaches across."""


@dataclass(frozen=True)
class Variant:
    """Our training step with something turned off."""

    name: str
    patches: Sequence[Patch] = ()
    contiguous: bool = False
    fused: bool = True


def ablation(settings: Settings) -> int:
    """Print how many times as long steps take without each optimisation; 1 when a variant computes something else."""
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    print(machine(settings.repetitions))
    print(f"\n{SPACE}, training step: ms with everything on, and how many times as long it takes without (minima)")
    runs = {variant.name: _Run(variant) for variant in variants()}
    names = [*list(runs)[1:], "allocator"]
    print(f"{'':22} {'ms':>7}  " + "  ".join(f"{name:>12}" for name in names), flush=True)
    remote = {name: RemoteTrainer(our_trainer, keep_freed=name == "kept", threads=settings.threads) for name in REMOTE}
    rows, off = [], []
    for case in cases(settings.shapes, settings.subnets, settings.seed):
        for run in (*runs.values(), *remote.values()):
            run.start(case)
        found = interleaved({name: run.step for name, run in runs.items()}, settings.repetitions)
        found |= interleaved({name: run.step for name, run in remote.items()}, settings.repetitions)
        best = {name: min(step.elapsed_s for step in steps[1:]) for name, steps in found.items()}
        rows.append([best[name] / best["all on"] for name in names[:-1]] + [best["returned"] / best["kept"]])
        print(f"{case.shape:12} {case.name:9} {1000 * best['all on']:7.1f}  {_factors(rows[-1])}", flush=True)
        off += [f"{case.shape} {case.name}: {name}" for name in different(found)]
    print(f"{'geometric mean':30}  {_factors([geometric_mean(column) for column in zip(*rows, strict=True)])}")
    for run in remote.values():
        run.close()
    print("\n".join(f"another loss: {what}" for what in off) or f"all losses are the same within {SAME_LOSS:g}")
    return 1 if off else 0


REMOTE = ("kept", "returned")
"""Processes whose allocator keeps freed memory, as in training, or returns it as the system's does."""


def variants() -> list[Variant]:
    """Return everything on, each thing off, and all of them off."""
    singles = [
        Variant("channels last", contiguous=True),
        Variant("kernel crop", (whole_kernels,)),
        Variant("few pixels", (convolutions,)),
        Variant("whole weight", (slices,)),
        Variant("in place", (copies,)),
        Variant("fused SGD", fused=False),
    ]
    patches = [patch for variant in singles for patch in variant.patches]
    return [Variant("all on"), *singles, Variant("all of these", patches, contiguous=True, fused=False)]


def different(found: dict[str, list[Step]]) -> list[str]:
    """Return the variants whose first loss is not the one with everything on."""
    loss = found["all on"][0].loss
    return [name for name, steps in found.items() if not abs(steps[0].loss / loss - 1) <= SAME_LOSS]


class _Run(OurTrainer):
    """Steps of a variant; its patches are in place only while it steps, and are not timed."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        network = Supernet(preset(SPACE))
        if variant.contiguous:
            network = ContiguousSupernet(preset(SPACE)).to(memory_format=torch.contiguous_format)
        super().__init__(network)

    def step(self) -> Step:
        with ExitStack() as stack:
            for turn_off in self.variant.patches:
                stack.enter_context(turn_off())
            return super().step()

    def new_optimizer(self) -> torch.optim.Optimizer:
        optimizer = super().new_optimizer()
        for group in optimizer.param_groups:
            group["fused"] = self.variant.fused
        return optimizer


class ContiguousSupernet(Supernet):
    """Leaves images as they come; matrix products on few pixels still give channels-last results."""

    def forward(self, images: Tensor, arch: ArchConfig, noise: Noise | None = None) -> Tensor:
        x = resize(images, arch.resolution)
        for layer in layers(self.space, arch):
            x = self.elastic(layer)(x, layer, None)
        return x


@contextmanager
def whole_kernels() -> Iterator[None]:
    """Convolve small maps with the whole kernel, most of which meets padding."""
    forward = ElasticInvertedResidual.forward

    def uncropped(self: nn.Module, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:
        return forward(self, x, _on_endless_map(layer), keep)

    with patch.object(ElasticInvertedResidual, "forward", uncropped):
        yield


@lru_cache
def _on_endless_map(layer: Layer) -> Layer:
    return replace(layer, input_size=ENDLESS)


@contextmanager
def convolutions() -> Iterator[None]:
    """Convolve where few pixels make a matrix product: 1x1 convolutions, squeeze-and-excite, the pooled layer."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is None:  # a kernel transform
            return F.linear(x, weight)
        return F.conv2d(x[:, :, None, None], weight[:, :, None, None], bias).flatten(1)

    def pooled(self: ElasticPooledConv, x: Tensor, layer: Layer, keep: Tensor | None = None) -> Tensor:
        state = self.active_state(layer)
        features = F.conv2d(x.mean((2, 3), keepdim=True), state["conv.weight"], state.get("conv.bias"))
        return elastic.activate(layer.activation, features)

    functions = SimpleNamespace(**{**vars(F), "linear": linear})
    with (
        patch.object(elastic, "FEW_PIXELS", 0),
        patch.object(elastic_blocks, "F", functions),
        patch.object(ElasticPooledConv, "forward", pooled),
    ):
        yield


@contextmanager
def slices() -> Iterator[None]:
    """Slice every weight, also where all of it is used."""

    def cut(weight: Tensor, out_channels: int, in_channels: int) -> Tensor:
        return weight[:out_channels, :in_channels]

    def batch_norm_slices(bn: nn.BatchNorm2d, name: str, channels: int) -> State:
        tensors = {"weight": bn.weight, "bias": bn.bias, "running_mean": bn.running_mean, "running_var": bn.running_var}
        return {f"{name}.{key}": tensor[:channels] for key, tensor in tensors.items() if tensor is not None}

    with ExitStack() as stack:
        for module in (elastic, elastic_blocks):
            stack.enter_context(patch.object(module, "cut", cut))
            stack.enter_context(patch.object(module, "batch_norm_slices", batch_norm_slices))
        yield


@contextmanager
def copies() -> Iterator[None]:
    """Let activations write to new tensors."""
    in_place = elastic.activate

    def activate(kind: str, x: Tensor) -> Tensor:
        if kind == "relu":
            return F.relu(x)
        return F.hardtanh(x, 0.0, 6.0) if kind == "relu6" else in_place(kind, x)

    with patch.object(elastic, "activate", activate), patch.object(elastic_blocks, "activate", activate):
        yield


def _factors(row: Sequence[float]) -> str:
    return "  ".join(f"{factor:12.2f}" for factor in row)
