import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from ofa_kit.data.batches import evaluation_batches, normalize, training_batches
from ofa_kit.data.dataset import decode
from ofa_kit.data.sources import DEBIAN_FASHION_MNIST, open_dataset
from ofa_kit.errors import DataError, UnknownNameError


def write_folder(root, classes=("cat", "dog"), size=(16, 16), count=12, parts=("train", "test")):
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


def test_parts_of_a_data_set_do_not_overlap_and_have_every_class():
    data = open_dataset("digits", photo_size=32)
    parts = [data.train, data.validation, data.test]
    assert sum(len(p.labels) for p in parts) == 1797
    assert all(len(torch.unique(p.labels)) == 10 for p in parts)
    assert not set(data.train.indices.tolist()) & set(data.validation.indices.tolist())


def test_an_epoch_resumed_in_the_middle_goes_on_with_the_same_batches():
    data = open_dataset("digits", photo_size=32)
    settings = {"batch_size": 200, "seed": 3, "epoch": 5}
    whole = list(training_batches(data.train, data.info, **settings))
    torch.manual_seed(99)  # hidden state must not matter
    rest = list(training_batches(data.train, data.info, start=2, **settings))
    assert len(rest) == len(whole) - 2
    for (images, labels), (again, same_labels) in zip(whole[2:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same_labels)
    other = next(iter(training_batches(data.train, data.info, **settings | {"epoch": 6})))
    assert not torch.equal(whole[0][0], other[0])


def test_workers_make_the_same_batches(tmp_path):
    data = open_dataset(f"imagefolder:{write_folder(tmp_path, size=(120, 150))}", photo_size=64)
    batches = [
        torch.cat([x for x, _ in training_batches(data.train, data.info, batch_size=4, seed=0, epoch=0, workers=w)])
        for w in (0, 2)
    ]
    assert torch.equal(*batches)


def test_small_images_keep_their_size_and_photos_are_cropped(tmp_path):
    small = open_dataset(f"imagefolder:{write_folder(tmp_path / 'a')}", photo_size=64)
    photos = open_dataset(f"imagefolder:{write_folder(tmp_path / 'b', size=(120, 150))}", photo_size=64)
    for data, size in ((small, 16), (photos, 64)):
        images, labels = next(evaluation_batches(data.test, data.info))
        assert images.shape == (24, 3, size, size)
        assert labels.tolist() == [0] * 12 + [1] * 12
        assert data.info.class_names == ("cat", "dog")


def test_a_folder_without_parts_is_split(tmp_path):
    root = write_folder(tmp_path, parts=(".",), count=20)
    data = open_dataset(f"imagefolder:{root}", photo_size=32)
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [28, 4, 8]


def test_normalisation_gives_zero_mean_and_unit_deviation():
    data = open_dataset("digits", photo_size=32)
    images = torch.stack([data.train.image(i) for i in range(len(data.train.labels))])
    normal = normalize(images, data.info)
    assert abs(float(normal.mean())) < 0.05
    assert abs(float(normal.std()) - 1) < 0.05


def test_damaged_and_missing_data_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        open_dataset("digit", photo_size=32)
    with pytest.raises(DataError, match="no folder"):
        open_dataset("imagefolder:/no/such/folder", photo_size=32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="find any class folder"):
        open_dataset(f"imagefolder:{tmp_path / 'empty'}", photo_size=32)
    root = write_folder(tmp_path / "broken")
    broken = root / "train" / "dog" / "3.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"dog/3.png' is not a readable image"):
        open_dataset(f"imagefolder:{root}", photo_size=32)
    (write_folder(tmp_path / "odd") / "test" / "dog").rename(tmp_path / "odd" / "test" / "fox")
    with pytest.raises(DataError, match="differ in the classes dog, fox"):
        open_dataset(f"imagefolder:{tmp_path / 'odd'}", photo_size=32)
    with pytest.raises(DataError, match="no CIFAR10 under"):
        open_dataset(f"cifar10:{tmp_path}", photo_size=32)


def test_fashion_mnist_from_debians_package_and_from_torchvisions_layout(tmp_path):
    if not DEBIAN_FASHION_MNIST.exists():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    data = open_dataset("fashion-mnist", photo_size=32)
    assert (len(data.test.labels), data.info.in_channels, data.info.image_size) == (10_000, 1, 28)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in DEBIAN_FASHION_MNIST.glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    again = open_dataset(f"fashion-mnist:{tmp_path}", photo_size=32)
    assert torch.equal(again.test.images, data.test.images)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert len(torch.unique(decode(tmp_path / "grey.png"))) > 200


def test_a_class_with_one_image_is_refused(tmp_path):
    root = write_folder(tmp_path, parts=(".",), count=3)
    for path in list((root / "dog").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="at least two images"):
        open_dataset(f"imagefolder:{root}", photo_size=32)
