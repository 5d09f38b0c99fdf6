"""Classify image files with the ONNX model beside this file: `python predict.py image.jpg`.

Needs Python 3.8 or newer with numpy, onnxruntime and pillow, and nothing else. How images are prepared and what the
classes are called stands in the model's metadata. From a program: `Classifier().probabilities(Path("image.jpg"))`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

PACKAGES = {"numpy": "numpy", "onnxruntime": "onnxruntime", "PIL": "pillow"}
PREFIX = "ofa_kit."
MODEL = Path(__file__).with_name("model.onnx")


class PredictError(Exception):
    """What a user can mend; the message says how."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the likeliest classes of each image and return the exit code: 0, or 2 where something went wrong."""
    options = _parser().parse_args(arguments)
    try:
        require_packages()
        classifier = Classifier(options.model)
    except PredictError as error:
        _say_error(error)
        return 2
    code = 0
    for path in options.images:
        try:
            found = classifier.probabilities(path)
        except PredictError as error:
            _say_error(error)
            code = 2
            continue
        if len(options.images) > 1:
            sys.stdout.write(f"{path}\n")
        for index in found.argsort()[::-1][: options.top]:
            sys.stdout.write(f"{100 * found[index]:6.2f} %  {classifier.class_names[index]}\n")
    return code


class Classifier:
    """A loaded model with its own preparation of images."""

    def __init__(self, model: Path = MODEL) -> None:
        import onnxruntime

        if not model.is_file():
            raise PredictError(f"no model '{model}'; keep it beside predict.py, or give it with --model FILE")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise PredictError(f"onnxruntime cannot load '{model}': {_one_line(error)}") from error
        facts = self.session.get_modelmeta().custom_metadata_map
        if PREFIX + "preprocessing" not in facts or PREFIX + "class_names" not in facts:
            raise PredictError(f"'{model}' does not say how images are prepared; export it with `ofa-kit export`")
        self.steps: dict[str, Any] = json.loads(facts[PREFIX + "preprocessing"])
        self.class_names: list[str] = json.loads(facts[PREFIX + "class_names"])

    def probabilities(self, path: Path) -> NDArray[np.float64]:
        """Return the probability of each class for an image file."""
        import numpy as np

        logits = self.logits(path).astype(np.float64)
        powers = np.exp(logits - logits.max())
        shares: NDArray[np.float64] = powers / powers.sum()
        return shares

    def logits(self, path: Path) -> NDArray[np.float32]:
        """Return the network's outputs (classes,) for an image file."""
        import numpy as np

        image = decoded(path, self.steps["channels"])
        first = self.session.get_inputs()[0]
        batch = first.shape[0] if isinstance(first.shape[0], int) else 1
        fed = _pixels(image) if self.steps["inside_model"] else prepared(image, self.steps)
        logits: NDArray[np.float32] = self.session.run(None, {first.name: np.repeat(fed[None], batch, axis=0)})[0][0]
        return logits


def decoded(path: Path, channels: str) -> Image.Image:
    """Return the image in a file as 8 bits RGB or grey."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            is_16_bit = image.mode.startswith("I")  # PIL would clip such greys to black and white
            plain = Image.fromarray((np.array(image) // 256).astype(np.uint8)) if is_16_bit else image
            return plain.convert("RGB" if channels == "RGB" else "L")
    except FileNotFoundError as error:
        raise PredictError(f"no image '{path}'") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PredictError(f"'{path}' is not a readable image: {_one_line(error)}") from error


def prepared(image: Image.Image, steps: dict[str, Any]) -> NDArray[np.float32]:
    """Return the network's input (C, R, R) for an image, step by step as in training."""
    import numpy as np

    pixels = np.moveaxis(_pixels(_cropped(image, steps)), 2, 0).astype(np.float32)
    mean, std = (np.array(steps[name], np.float32)[:, None, None] for name in ("mean", "std"))
    normal = (pixels * np.float32(steps["scale"]) - mean) / std
    return np.stack([_resized(channel, steps["resize_to"]) for channel in normal])


def require_packages() -> None:
    """Raise a PredictError that names what must be installed."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise PredictError(
            f"not installed: {', '.join(missing)}; run `{sys.executable} -m pip install {' '.join(missing)}`"
        )


def _cropped(image: Image.Image, steps: dict[str, Any]) -> Image.Image:
    """Resize to the size of the training images: whole, or the shorter side and then the centre."""
    from PIL import Image

    if "resize" in steps:
        height, width = steps["resize"]
        return image.resize((width, height), Image.Resampling.BILINEAR)
    side, size = steps["resize_shorter_side"], steps["center_crop"]
    width, height = (side * length // min(image.size) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return (H, W, C)."""
    import numpy as np

    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _resized(channel: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return a channel (H, W) as (size, size): bilinear, antialiased, in floats."""
    import numpy as np
    from PIL import Image

    if channel.shape == (size, size):
        return channel
    return np.asarray(Image.fromarray(channel).resize((size, size), Image.Resampling.BILINEAR))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="predict.py", description="Classify image files with an exported network.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--top", type=int, default=5, help="classes to print for each image")
    parser.add_argument("--model", type=Path, default=MODEL, help="default: model.onnx beside this file")
    return parser


def _say_error(error: PredictError) -> None:
    sys.stderr.write(f"error: {error}\n")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
