"""The data sets by name: digits, fashion-mnist, cifar10, imagefolder:PATH."""

import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ofa_kit.data.dataset import (
    Dataset,
    DatasetInfo,
    FileImages,
    ImageSource,
    MemoryImages,
    channel_statistics,
    content_hash,
    hold_out,
)
from ofa_kit.errors import DataError, UnknownNameError

SPLIT_SEED = 0
VALIDATION_SHARE, VALIDATION_MOST = 0.1, 10_000
TEST_SHARE = 0.2
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
SMALL_IMAGE = 96
SMALL_SET_BYTES = 2**30
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def open_dataset(data: str, *, photo_size: int) -> Dataset:
    """Open a data set by name, with an optional root after a colon.

    Photos of different sizes are cropped to `photo_size`; small square images keep their own size. A DataError says
    what is missing or damaged.
    """
    name, _, root = data.partition(":")
    openers: dict[str, Callable[[], Dataset]] = {
        "digits": lambda: _digits(data),
        "fashion-mnist": lambda: _fashion_mnist(data, Path(root or default_root())),
        "cifar10": lambda: _cifar10(data, Path(root or default_root())),
        "imagefolder": lambda: _image_folder(data, root, photo_size),
    }
    if name not in openers:
        raise UnknownNameError("data set", name, ["digits", "fashion-mnist", "cifar10", "imagefolder:PATH"])
    return openers[name]()


def default_root() -> str:
    """Return the folder where torchvision's data sets are looked for: $OFA_KIT_DATA or ./data."""
    return os.environ.get("OFA_KIT_DATA", "data")


def _digits(data: str) -> Dataset:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy((found.images * (255 / 16)).round().astype(np.uint8))[:, None]
    both = MemoryImages(images, torch.from_numpy(found.target.astype(np.int64)))
    rest, test = hold_out(both, TEST_SHARE, SPLIT_SEED)
    return _small_dataset(data, [str(d) for d in range(10)], _gathered(rest), _gathered(test), flip=False)


def _fashion_mnist(data: str, root: Path) -> Dataset:
    from torchvision.datasets import FashionMNIST

    names = list(FashionMNIST.classes)
    if (root / "FashionMNIST" / "raw").exists() or not DEBIAN_FASHION_MNIST.exists():
        train, test = (_torchvision(FashionMNIST, root, train) for train in (True, False))
        return _small_dataset(data, names, train, test, flip=True)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for packed in DEBIAN_FASHION_MNIST.glob("*.gz"):
            (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        train, test = (_torchvision(FashionMNIST, Path(folder), train) for train in (True, False))
    return _small_dataset(data, names, train, test, flip=True)


def _cifar10(data: str, root: Path) -> Dataset:
    from torchvision.datasets import CIFAR10

    train, test = (_torchvision(CIFAR10, root, train) for train in (True, False))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    return _small_dataset(data, names, train, test, flip=True)


def _torchvision(kind: Callable[..., object], root: Path, train: bool) -> MemoryImages:
    name = getattr(kind, "__name__", str(kind))
    try:
        found = kind(root=str(root), train=train, download=False)
    except RuntimeError as error:
        raise DataError(
            f"no {name} under '{root}'; put torchvision's files there (torchvision.datasets.{name}('{root}', "
            "download=True) fetches them), or give another folder as NAME:FOLDER"
        ) from error
    pixels = torch.as_tensor(found.data)  # type: ignore[attr-defined]
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return MemoryImages(images.contiguous(), torch.as_tensor(found.targets))  # type: ignore[attr-defined]


def _image_folder(data: str, root: str, photo_size: int) -> Dataset:
    """Folders of images, one per class: ROOT/train and ROOT/test (or val), or ROOT alone with a part held out."""
    if not root:
        raise DataError("imagefolder needs a folder: imagefolder:PATH")
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"no folder '{folder}'; give imagefolder:PATH with one sub-folder of images per class")
    train: ImageSource
    test: ImageSource
    if not (folder / "train").is_dir():
        names, every = _files(folder)
        train, test = hold_out(every, TEST_SHARE, SPLIT_SEED)
    else:
        names, train_files = _files(folder / "train")
        test_folder = next((folder / n for n in ("test", "val", "validation") if (folder / n).is_dir()), None)
        if test_folder is None:
            raise DataError(
                f"'{folder}' has 'train' but neither 'test' nor 'val'; add one, with the same class folders"
            )
        test_names, test_files = _files(test_folder)
        if names != test_names:
            odd = sorted(set(names) ^ set(test_names))
            raise DataError(f"'{folder}': train and {test_folder.name} differ in the classes {', '.join(odd)}")
        train, test = train_files, test_files
    first = [tuple(train.image(i).shape) for i in range(min(64, len(train.labels)))]
    pixels = first[0][1] * first[0][2] * 3 * (len(train.labels) + len(test.labels))
    square = len(set(first)) == 1 and first[0][1] == first[0][2] <= SMALL_IMAGE
    if square and pixels <= SMALL_SET_BYTES:
        return _small_dataset(data, names, _gathered(train), _gathered(test), flip=True)
    rest, validation = hold_out(train, _validation_share(train), SPLIT_SEED)
    info = DatasetInfo(
        data=data,
        class_names=tuple(names),
        in_channels=3,
        image_size=photo_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        crop_fraction=0.875,
        flip=True,
        content=content_hash(train, test),
    )
    return Dataset(info, rest, validation, test)


def _validation_share(train: ImageSource) -> float:
    """Return a tenth, less where that would be more images than measuring subnets needs."""
    return min(VALIDATION_SHARE, VALIDATION_MOST / max(1, len(train.labels)))


def _files(folder: Path) -> tuple[list[str], FileImages]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"'{folder}': {' '.join(str(error).split())}") from error
    paths = tuple(Path(path) for path, _ in found.samples)
    return list(found.classes), FileImages(paths, torch.tensor([label for _, label in found.samples]))


def _gathered(source: ImageSource) -> MemoryImages:
    """Decode a whole source into memory; a DataError names an image of another size."""
    first = source.image(0)
    images = torch.empty((len(source.labels), *first.shape), dtype=torch.uint8)
    for index in range(len(images)):
        image = source.image(index)
        if image.shape != first.shape:
            raise DataError(
                f"image {index} has the shape {tuple(image.shape)}, the first ones {tuple(first.shape)}; "
                "make all images one size, or larger than 96 pixels to have them cropped"
            )
        images[index] = image
    return MemoryImages(images, source.labels)


def _small_dataset(data: str, names: list[str], train: MemoryImages, test: MemoryImages, *, flip: bool) -> Dataset:
    mean, std = channel_statistics(train.images)
    info = DatasetInfo(
        data=data,
        class_names=tuple(names),
        in_channels=train.images.shape[1],
        image_size=train.images.shape[-1],
        mean=mean,
        std=std,
        flip=flip,
        content=content_hash(train, test),
    )
    rest, validation = hold_out(train, _validation_share(train), SPLIT_SEED)
    return Dataset(info, rest, validation, test)
