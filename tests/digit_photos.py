"""A few of the digits as image files: data of a command that must not take long."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(folder, count):
    """Write so many digits of 8x8 pixels into a folder a class; return what --data takes."""
    found = load_digits()
    for index, (image, label) in enumerate(zip(found.images[:count], found.target[:count], strict=True)):
        path = folder / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype(np.uint8)).convert("RGB").save(path)
    return f"imagefolder:{folder}"
