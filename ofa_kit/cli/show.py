"""What the commands share: runs by name, and results for a person or a program."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer


def run_folder(name: str) -> Path:
    """Return the folder that a run name or path means."""
    return Path(name) if "/" in name else Path("runs") / name


def open_run(name: str | None) -> Any:
    """Open a run by name or folder, or the newest trained one."""
    from ofa_kit.training.run import Run

    return Run.open(run_folder(name)) if name is not None else Run.find_newest(Path("runs"))


def show_deployment(made: Any, budget: str, as_json: bool) -> None:
    """Print what was exported, predicted beside measured."""
    show(deployment_values(made), deployment_lines(made, budget), as_json)


def deployment_values(made: Any) -> dict[str, Any]:
    """Return all that is known of an exported network."""
    return {
        "model": str(made.model_path),
        "arch": str(made.arch),
        **made.facts,
        "predicted": made.predicted,
        "measured": made.measured,
    }


def deployment_lines(made: Any, budget: str) -> list[str]:
    """Return the same for a person to read."""
    measured, predicted = made.measured, made.predicted
    return [
        f"model    {made.model_path}   {made.facts['precision']}   arch {made.arch.key}   budget {budget}",
        f"arch     {made.arch}",
        f"latency  {_latency(measured)}{_beside(predicted, 'latency_ms', '.4f', ' ms')}",
        f"top-1    {measured['validation_top1']:.2f} % validation (measured){_beside(predicted, 'top1', '.2f', ' %')}",
        f"test     {measured['test_correct_onnx']:.0f} of {measured['test_images']:.0f} right in ONNX Runtime "
        f"({measured['test_top1_onnx']:.2f} %), {measured['test_correct_pytorch']:.0f} in PyTorch "
        f"({measured['test_top1_pytorch']:.2f} %); logits in fp32 differ by {measured['max_relative_difference']:.1e}",
        *_extras(made.facts),
    ]


def show(values: Any, text: list[str], as_json: bool) -> None:
    """Print the same fields for a program or for a person."""
    typer.echo(json.dumps(values, indent=2, default=str) if as_json else "\n".join(text))


def _beside(predicted: Mapping[str, float], name: str, form: str, unit: str) -> str:
    """Return what follows a measured value where it was predicted too."""
    return f", {predicted[name]:{form}}{unit} predicted" if name in predicted else ""


def _latency(measured: Mapping[str, float]) -> str:
    if "latency_ms" not in measured:
        return "not measured"
    quantiles = f"p50 {measured['latency_p50_ms']:.4f}, p90 {measured['latency_p90_ms']:.4f}"
    return f"{measured['latency_ms']:.4f} ms measured ({quantiles})"


def _extras(facts: Mapping[str, Any]) -> list[str]:
    """Return lines on what not every deployment has."""
    from ofa_kit.commands.deploy_report import change_of_top1

    lines = []
    for name, found in facts.get("other_devices", {}).items():
        measured = (
            f"{found['latency_ms_measured']:.4f} ms measured" if "latency_ms_measured" in found else "not measured"
        )
        lines.append(f"on {name}: {measured}, {found['latency_ms_predicted']:.4f} ms predicted")
    if "conversion" in facts:
        found, precision = facts["conversion"], facts["precision"]
        correct = found["test_correct"]
        lines.append(
            f"{precision:8} {correct[precision]} of {found['test_images']} right, {correct['fp32']} in fp32: "
            f"{change_of_top1(found['top1_drop'])}; {found['verdict']}"
        )
    if "preprocessing_proof" in facts:
        proof = facts["preprocessing_proof"]
        lines.append(f"inside   preprocessing; {proof['same_class']} of {proof['images']} images as in PyTorch")
    if "engine" in facts:
        lines.append(f"engine   {facts['engine']['file']}")
    return lines
