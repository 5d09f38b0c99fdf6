"""Many subnets judged in one pass: each gets what it would get alone."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from ofa_kit.arch.presets import preset
from ofa_kit.arch.selection import stratified_subnets
from ofa_kit.data.batches import evaluation_batches, training_batches
from ofa_kit.data.dataset import Dataset, FileImages
from ofa_kit.data.sources import open_dataset
from ofa_kit.export.onnx_export import export
from ofa_kit.supernet.recalibrate import recalibrate_together
from ofa_kit.supernet.subnet import extract
from ofa_kit.supernet.supernet import Supernet, resize
from ofa_kit.training.evaluate import Evaluator, decoded, image_batches, labelled_batches
from ofa_kit.training.measure_onnx import joined
from ofa_kit.training.measure_subnets import SubnetMeter, chunks_of
from ofa_kit.training.measure_together import in_onnxruntime, in_pytorch

SPACE = preset("mbv3-tiny")
ARCHS = [
    *stratified_subnets(SPACE, 4),
    replace(SPACE.largest(), resolution=16),
    replace(SPACE.smallest(), resolution=32),
]


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits", photo_size=32)


@pytest.fixture(scope="module")
def evaluator(digits):
    return Evaluator(digits, calibration=300)


@pytest.fixture(scope="module")
def supernet(digits):
    """A supernet that has seen a few batches of digits: its subnets answer differently."""
    supernet, rng = Supernet(SPACE), np.random.default_rng(0)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9)
    for images, labels in islice(training_batches(digits.train, digits.info, batch_size=64, seed=0, epoch=0), 10):
        for arch in (SPACE.largest(), SPACE.sample(rng)):
            torch.nn.functional.cross_entropy(supernet(images, arch), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return supernet.eval()


@pytest.mark.parametrize("count", [0, 100])
def test_images_kept_as_bytes_are_normalised_to_the_same_numbers(digits, count):
    kept = decoded(digits.validation, digits.info, count)
    chosen = np.sort(np.random.default_rng(0).permutation(len(digits.validation.labels))[: count or None])
    assert kept.images.dtype == torch.uint8
    pairs = zip(
        labelled_batches(kept, digits.info),
        evaluation_batches(digits.validation, digits.info, batch_size=250, indices=chosen),
        strict=True,
    )
    for (images, labels), (expected, expected_labels) in pairs:
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


def test_photos_are_cropped_once_and_then_normalised_to_the_same_numbers(tmp_path, digits):
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = tuple(tmp_path / f"{i}.png" for i in range(3))
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(path)
    photos = FileImages(paths, torch.arange(3))
    info = replace(digits.info, in_channels=3, image_size=56, mean=(0.5,) * 3, std=(0.2,) * 3, crop_fraction=0.875)
    ((expected, labels),) = evaluation_batches(photos, info)
    ((found, found_labels),) = labelled_batches(decoded(photos, info, 0), info)
    assert torch.equal(found, expected)
    assert torch.equal(found_labels, labels)
    assert Evaluator(Dataset(info, photos, photos, photos), calibration=2, validation=9).validation_count == 3


def test_a_larger_share_of_the_images_holds_the_smaller_one(digits):
    few, more = (decoded(digits.validation, digits.info, count).images for count in (40, 90))
    rows = {image.numpy().tobytes() for image in more}
    assert all(image.numpy().tobytes() in rows for image in few)


@pytest.mark.parametrize("runtime", [in_pytorch, in_onnxruntime])
def test_logits_of_many_subnets_are_those_of_each_alone_to_the_bit(supernet, evaluator, runtime):
    rng, largest = np.random.default_rng(0), replace(SPACE.largest(), resolution=32)
    mutants = [replace(SPACE.mutate(largest, rng, 0.2), resolution=32) for _ in range(4)]
    archs = list(dict.fromkeys([largest, *mutants]))
    assert len(archs) > 3
    images, _ = next(iter(labelled_batches(evaluator.validation_images, evaluator.dataset.info)))
    images = resize(images, 32)

    @torch.inference_mode()
    def logits(chosen):
        with torch.no_grad():
            subnets = [extract(supernet, arch) for arch in chosen]
        recalibrate_together(subnets, image_batches(evaluator.calibration_images, evaluator.dataset.info))
        return {subnet.arch: found for subnet, found in runtime(subnets)(images)}

    together = logits(archs)
    assert len(together) == len(archs)
    assert all(torch.equal(logits([arch])[arch], together[arch]) for arch in archs)


def test_joined_models_share_what_begins_alike(supernet):
    archs = [SPACE.largest(), replace(SPACE.largest(), stages=(SPACE.largest().stages[0], SPACE.smallest().stages[1]))]
    models = [export(extract(supernet, arch), batch=None) for arch in archs]
    sizes = [len(model.graph.node) for model in models]
    assert len(joined([models[0], models[0]]).graph.node) == sizes[0]
    common = next(
        i for i, pair in enumerate(zip(*(m.graph.node for m in models), strict=False)) if "stage1" in pair[0].name
    )
    assert common > 0
    assert len(joined(models).graph.node) == sum(sizes) - common
    other = export(extract(Supernet(SPACE, torch.Generator().manual_seed(9)), archs[0]), batch=None)
    assert len(joined([models[0], other]).graph.node) == 2 * sizes[0]


def test_counts_are_those_of_recalibrating_and_evaluating_one_by_one(supernet, evaluator):
    counts = SubnetMeter.of(supernet, evaluator).count_correct(ARCHS)
    one_by_one = [evaluator.top1(supernet, arch) for arch in ARCHS]
    one_image = 100 / evaluator.validation_count  # folded batch norms round otherwise: a tie may fall the other way
    found = [one_image * count for count in counts]
    assert found == pytest.approx(one_by_one, abs=1.01 * one_image)
    assert len(set(counts)) > 3
    assert max(found) > 20


def test_onnxruntime_and_pytorch_count_the_same(supernet, evaluator):
    counts = [
        SubnetMeter.of(supernet, evaluator, runtime).count_correct(ARCHS) for runtime in ("pytorch", "onnxruntime")
    ]
    assert np.abs(np.subtract(*counts)).max() <= 1
    subnet = recalibrate_together([extract(supernet, ARCHS[0])], [torch.randn(50, 1, 8, 8)])[0]
    images = torch.randn(20, 1, ARCHS[0].resolution, ARCHS[0].resolution)
    ((_, onnx),) = in_onnxruntime([subnet])(images)
    with torch.no_grad():
        ((_, plain),) = in_pytorch([subnet])(images)
    torch.testing.assert_close(onnx, plain, rtol=1e-4, atol=1e-5)


def test_measuring_leaves_the_number_of_threads_and_the_supernet_as_they_were(supernet, evaluator):
    before, threads = {k: v.clone() for k, v in supernet.state_dict().items()}, torch.get_num_threads()
    SubnetMeter.of(supernet, evaluator).count_correct(ARCHS[:2])
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[key]) for key, value in supernet.state_dict().items())


@pytest.mark.parametrize("most", [1, 3, 100])
def test_chunks_hold_each_subnet_once_and_one_resolution_each(most):
    archs = stratified_subnets(SPACE, 30)
    chunks = chunks_of(SPACE, archs, most)
    assert sorted(arch.key for chunk in chunks for arch in chunk) == sorted(arch.key for arch in archs)
    assert max(map(len, chunks)) <= most
    assert all(len({arch.resolution for arch in chunk}) == 1 for chunk in chunks)
    assert chunks_of(SPACE, archs[::-1], most) == chunks
