"""The methods of tools/bench/searchers.py, each as the commands that a user would type."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SIZED_FOR_MINUTES = 10
CELLS = {"cells": 5, "channels": 8}
"""Of the networks that cells are searched for."""


@dataclass(frozen=True)
class Wanted:
    """What all methods are asked for."""

    data: str
    device: str
    latency_ms: float
    minutes: float
    seed: int

    def sized(self, count: float) -> int:
        """Return a number of epochs, children or generations for these minutes, from that for 10."""
        return max(1, round(count * self.minutes / SIZED_FOR_MINUTES))

    @property
    def budget(self) -> tuple[object, ...]:
        return ("--device", self.device, "--latency-ms", self.latency_ms)


@dataclass(frozen=True)
class Found:
    """What a method ends with."""

    test_top1: float
    """Of all test images, in percent."""
    model: str
    """ONNX file, seen from the folder of the commands."""
    params: int


class Shell(Protocol):
    """Runs a command once and returns what it prints as JSON."""

    folder: Path

    def __call__(self, name: str, *words: object, makes: str = "") -> dict[str, Any]: ...


def bignas(wanted: Wanted, shell: Shell) -> Found:
    """Train by the sandwich rule, then take a subnet as it is (Yu et al. 2020)."""
    return _supernet(wanted, shell, "cifar10-small", wanted.sized(3.5))


def ofa(wanted: Wanted, shell: Shell) -> Found:
    """Shrink progressively, one epoch a phase at least, then take a subnet as it is (Cai et al. 2020)."""
    return _supernet(wanted, shell, "cifar10-progressive-shrinking", wanted.sized(6))


def spos(wanted: Wanted, shell: Shell) -> Found:
    """Train single paths, evolve by measured accuracy, train the best from new weights (Guo et al. 2020)."""
    _train_supernet(wanted, shell, "cifar10-spos", wanted.sized(5))
    shell("profile", "profile", "--run", "net", "--device", wanted.device, "--subnets", 16, "--no-accuracy")
    size = ("--population", 12, "--generations", wanted.sized(5), "--images", 500, "--seed", wanted.seed)
    found = shell("search", "search", "spos", "--run", "net", *wanted.budget, *size)
    arch = ("--run", "net", "--arch", found["best"]["key"], "--device", wanted.device)
    alone = ("--set", "bn_affine=true", "--set", f"seed={wanted.seed}")
    made = shell(
        "train", "train-arch", *arch, "--name", "runs/found", "--epochs", wanted.sized(8), *alone, makes="runs/found"
    )
    return _deployed(made)


def darts(wanted: Wanted, shell: Shell) -> Found:
    """Move a mixture by gradients with the latency in the loss, then train the cells (Liu et al. 2019)."""
    sizes = ("--epochs", wanted.sized(2.5), *_settings({"images": 2000, "latency_weight": 1.0, **_network()}))
    seed = ("--seed", wanted.seed)
    recipe = ("--recipe", "darts-small", "--data", wanted.data, "--run", "runs/search", *wanted.budget)
    shell("search", "search", "darts", *recipe, *sizes, *seed, makes="runs/search")
    return _trained_cells(wanted, shell, "darts", 3.3)


def enas(wanted: Wanted, shell: Shell) -> Found:
    """Let a controller choose cells over shared weights within the budget, then train them (Pham et al. 2018)."""
    first = wanted.sized(1)
    epochs = {"epochs": 7 * first, "restart_epochs": first}
    sizes = _settings({**epochs, "images": 4000, "derive_samples": 30, **_network()})
    recipe = ("--recipe", "enas-micro-small", "--data", wanted.data, "--run", "runs/search", *wanted.budget)
    shell("search", "search", "enas", *recipe, "--latency-hard", *sizes, "--seed", wanted.seed, makes="runs/search")
    return _trained_cells(wanted, shell, "enas", 7.5)


def nas_rl(wanted: Wanted, shell: Shell) -> Found:
    """Let a controller learn from children within the budget, then train the best again (Zoph & Le 2017)."""
    space = {"layers": 6, "filters": "[8, 16, 24, 32]", "stride_heights": "[1, 2]", "stride_widths": "[1, 2]"}
    children = {"images": 3000, "epochs": 2, "children": wanted.sized(45)}
    sizes = _settings({**space, **children, "final_epochs": wanted.sized(16)})
    recipe = ("--recipe", "nas-rl-digits", "--data", wanted.data, "--run", "runs/search", *wanted.budget)
    in_this_process = ("--processes", 0)  # the time of others would not be counted
    how = ("--latency-hard", *in_this_process, "--seed", wanted.seed)
    made = shell("search", "search", "nas-rl", *recipe, *how, *sizes, makes="runs/search")
    return Found(made["test_top1_onnx"], made["model"], made["params"])


METHODS: Mapping[str, Callable[[Wanted, Shell], Found]] = {
    "nas-rl": nas_rl,
    "enas": enas,
    "darts": darts,
    "spos": spos,
    "ofa": ofa,
    "bignas": bignas,
}


def _supernet(wanted: Wanted, shell: Shell, recipe: str, epochs: int) -> Found:
    _train_supernet(wanted, shell, recipe, epochs)
    tables = ("--subnets", 24, "--accuracy-subnets", 30)
    shell("profile", "profile", "--run", "net", "--device", wanted.device, *tables)
    export = ("--export", "model.onnx", "--seed", wanted.seed)
    return _deployed(shell("specialize", "specialize", "--run", "net", *wanted.budget, *export))


def _train_supernet(wanted: Wanted, shell: Shell, recipe: str, epochs: int) -> None:
    images = {"calibration_images": 1000, "validation_images": 1000, "eval_every": 100}
    given = ("--recipe", recipe, "--data", wanted.data, "--epochs", epochs, "--run", "net")
    shell("supernet", "train-supernet", *given, *_settings({**images, "seed": wanted.seed}), makes="runs/net")


def _trained_cells(wanted: Wanted, shell: Shell, layout: str, epochs: float) -> Found:
    given = ("--genotype", "runs/search/genotype.txt", "--recipe", "cells-small", "--data", wanted.data)
    sizes = _settings({"images": 0, "layout": layout, "eval_every": 100, **CELLS})
    how = ("--run", "runs/found", "--epochs", wanted.sized(epochs), "--seed", wanted.seed, "--device", wanted.device)
    made = shell("train", "train-cells", *given, *how, *sizes, makes="runs/found")
    return Found(made["test_top1_onnx"], made["model"], made["params"])


def _deployed(made: dict[str, Any]) -> Found:
    return Found(made["measured"]["test_top1_onnx"], made["model"], round(made["params"]))


def _network() -> dict[str, int]:
    return {f"network_{key}": value for key, value in CELLS.items()}


def _settings(values: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(word for key, value in values.items() for word in ("--set", f"{key}={value}"))
