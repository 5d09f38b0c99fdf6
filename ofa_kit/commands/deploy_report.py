"""The page of a deployment: what it is, predicted against measured, before and after conversion, how to run it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ofa_kit.commands.report_page import Headline, Section, facts, page, paragraph, table

if TYPE_CHECKING:
    from ofa_kit.commands.deploy import Deployment

INSTALL = "python -m pip install numpy onnxruntime pillow"


def deployment_page(made: "Deployment") -> str:
    """Return report.html, which needs nothing from elsewhere."""
    known: Mapping[str, Any] = made.facts
    sections = [
        Section("network", "What it is", [_network(made, known)]),
        Section("latency", "Predicted against measured", _predicted(made, known)),
        Section("accuracy", "From PyTorch to this file", _accuracy(made, known)),
        Section("preprocessing", "From an image to the network", _preprocessing(known)),
        Section("run", "How to run it", _run(made, known)),
        Section("origin", "How it was made", [_origin(known)]),
    ]
    title = f"{known['space']} in {known['precision']} for {known['device']['name']}"
    subtitle = f"Subnet {known['arch_key']} of run {known['run']}, exported {known['exported_at']}"
    return page(title, subtitle, _headlines(made, known), sections)


def change_of_top1(drop: float) -> str:
    """Return what a conversion does to top-1, in words."""
    return f"{'loses' if drop >= 0 else 'gains'} {abs(drop):.2f} points"


def _headlines(made: "Deployment", known: Mapping[str, Any]) -> list[Headline]:
    measured, device = made.measured, known["device"]
    budget = f"; budget {known['budget']}" if known["budget"] else ""
    time = (
        Headline(f"{measured['latency_ms']:.3f} ms", f"latency on {device['name']}, measured{budget}")
        if "latency_ms" in measured
        else Headline("not timed", f"latency in {known['precision']} on {device['name']}{budget}")
    )
    return [
        time,
        Headline(
            f"{measured['test_top1_onnx']:.2f} %", f"top-1 of {measured['test_images']:,.0f} test images, measured"
        ),
        Headline(f"{made.model_path.stat().st_size / 2**20:.2f} MiB", f"{made.model_path.name}"),
        Headline(f"{known['macs'] / 1e6:.4g} M", f"multiply-adds; {known['params'] / 1e6:.3g} M parameters"),
    ]


def _network(made: "Deployment", known: Mapping[str, Any]) -> str:
    device = known["device"]
    rows = {
        "architecture": str(made.arch),
        "input": f"{known['preprocessing']['layout']}; the network sees {made.arch.resolution} px",
        "classes": f"{len(known['class_names'])}: {', '.join(known['class_names'][:10])}"
        + (", ..." if len(known["class_names"]) > 10 else ""),
        "trained on": known["data"],
        "precision": known["precision"],
        "device": f"{device['name']}: {device['backend']} in {device['precision']}, batch {device['batch']}, "
        f"threads {device['threads']}",
        "budget": known["budget"] or "none",
    }
    return facts(list(rows.items()))


def _predicted(made: "Deployment", known: Mapping[str, Any]) -> list[str]:
    predicted, measured = made.predicted, made.measured
    rows = []
    if "latency_ms" in measured:
        quantiles = " / ".join(f"{measured[f'latency_{name}_ms']:.4f}" for name in ("p50", "p90", "p99"))
        before, off = "", ""
        if "latency_ms" in predicted:
            before = f"{predicted['latency_ms']:.4f}"
            off = f"{100 * (predicted['latency_ms'] / measured['latency_ms'] - 1):+.1f} %"
        rows.append(["latency, ms", before, f"{measured['latency_ms']:.4f}", off])
        rows.append(["wall clock p50 / p90 / p99, ms", "", quantiles, ""])
    before, off = "", ""
    if "top1" in predicted:
        before, off = f"{predicted['top1']:.2f}", f"{predicted['top1'] - measured['validation_top1']:+.2f} points"
    rows.append(["validation top-1, %", before, f"{measured['validation_top1']:.2f}", off])
    rows.append(["test top-1, %", "", f"{measured['test_top1_onnx']:.2f}", ""])
    note = "Latency is that of the network alone, without preparing images."
    if known["precision"] != known["device"]["precision"]:
        note += f" It was predicted for {known['device']['precision']}; the file is {known['precision']}."
    if not measured.get("latency_converged", 1):
        note += " The machine was disturbed while it was timed: measure again."
    return [table(["", "predicted", "measured", "predicted - measured"], rows), paragraph(note, "note")]


def _accuracy(made: "Deployment", known: Mapping[str, Any]) -> list[str]:
    measured, images = made.measured, made.measured["test_images"]
    said = (
        f"The fp32 graph was compared with PyTorch on all {images:,.0f} test images: the logits differ by "
        f"{measured['max_relative_difference']:.1e} of the largest."
    )
    columns = ["", f"right of {images:,.0f}", "top-1, %"]
    pytorch = ["PyTorch, fp32", *_right(measured["test_correct_pytorch"], images)]
    if "conversion" not in known:
        rows = [pytorch, ["ONNX Runtime, fp32 (this file)", *_right(measured["test_correct_onnx"], images)]]
        return [table(columns, rows), paragraph(said)]
    converted, precision = known["conversion"], known["precision"]
    rows = [
        [f"ONNX Runtime, {name}", *_right(correct, images), *_cost(converted, name)]
        for name, correct in converted["test_correct"].items()
    ]
    rows[-1][0] += " (this file)"
    columns += ["latency, ms (p50)", "graph, MiB"]
    return [
        table(columns, [[*pytorch, "", ""], *rows]),
        paragraph(said),
        paragraph(_conversion(converted, precision, images)),
    ]


def _right(correct: float, images: float) -> list[str]:
    return [f"{correct:,.0f}", f"{100 * correct / images:.2f}"]


def _cost(converted: Mapping[str, Any], precision: str) -> list[str]:
    """Return time and size of a graph of a conversion, as text."""
    times = converted["latency_ms"]
    time = f"{times[precision]:.4f} ({converted['latency_p50_ms'][precision]:.4f})" if times else "not timed"
    return [time, f"{converted['model_bytes'][precision] / 2**20:.2f}"]


def _conversion(converted: Mapping[str, Any], precision: str, images: float) -> str:
    said = (
        f"{precision} changes the class of {images - converted['test_same_class']:,.0f} images and "
        f"{change_of_top1(converted['top1_drop'])}; {converted['verdict']}."
    )
    if converted["latency_ms"]:
        said += " Both graphs were timed in turn in one session."
    if precision == "int8":
        kept = ", ".join(f"`{name}`" for name in converted["kept_fp32"])
        said += (
            f" Weights have a scale for each output channel; activations end at the {converted['activation_ranges']} "
            f"of {converted['calibration_images']} training images"
            + (f"; {kept} stayed fp32." if kept else ".")
            + " Accuracy was judged on the processor that made this page: one without int8 dot products (VNNI) may "
            "clip sums, so judge it there again."
        )
    return said


def _preprocessing(known: Mapping[str, Any]) -> list[str]:
    steps = known["preprocessing"]
    crop = (
        f"resize to {steps['resize'][0]} x {steps['resize'][1]} pixels"
        if "resize" in steps
        else f"resize the shorter side to {steps['resize_shorter_side']}, crop {steps['center_crop']} x "
        f"{steps['center_crop']} in the centre"
    )
    rows = [
        ("decode", f"{steps['channels']}, 8 bits"),
        ("size", f"{crop}; {steps['interpolation']}, rounded to 8 bits"),
        ("scale", "divide by 255"),
        ("normalise", f"subtract {steps['mean']}, divide by {steps['std']}"),
        ("resolution", f"resize to {steps['resize_to']} x {steps['resize_to']}; {steps['interpolation']}, in floats"),
    ]
    if not steps["inside_model"]:
        return [facts(rows), paragraph("The model takes prepared images; `predict.py` prepares them so.", "note")]
    proof = known["preprocessing_proof"]
    said = (
        f"All but decoding is inside the model: it takes uint8 images (N, H, W, C). On {proof['images']} test images "
        f"{proof['same_class']} have the class that PyTorch gives after its own preprocessing; logits differ by "
        f"{proof['max_relative_difference']:.1e} of the largest."
    )
    return [facts(rows), paragraph(said, "note")]


def _run(made: "Deployment", known: Mapping[str, Any]) -> list[str]:
    parts = [
        paragraph(f"`{INSTALL}`"),
        paragraph("`python predict.py image.jpg more.jpg` prints the five likeliest classes of each image."),
        paragraph(
            "From a program: `from predict import Classifier` and `Classifier().probabilities(path)`. All of this page "
            f"stands in `deployment.json` and in the metadata of `{made.model_path.name}`."
        ),
    ]
    if "engine" in known:
        made_by = ", ".join(f"{name} {text}" for name, text in known["engine"].items() if name != "file")
        parts.append(paragraph(f"`{known['engine']['file']}` is the TensorRT engine; it loads with {made_by} alone."))
    return parts


def _origin(known: Mapping[str, Any]) -> str:
    rows = {
        "weights": f"hash {known['weights_hash']}, space {known['space']} (fingerprint {known['space_fingerprint']})",
        "latency table": f"hash {known['table_hash']}" if known["table_hash"] else "none",
        "versions": ", ".join(f"{name} {number}" for name, number in known["versions"].items()),
    }
    return facts(list(rows.items()))
