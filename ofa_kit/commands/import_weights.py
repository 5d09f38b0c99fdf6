"""import-weights, export-weights: MIT once-for-all's checkpoints as runs or ONNX models, and runs as checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ofa_kit import storage
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.ofa_net_config import arch_of_net_config, mit_class
from ofa_kit.arch.presets import preset
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.deploy import deployment_paths, network_facts
from ofa_kit.commands.measure_accuracy import NO_DATA
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.data.sources import IMAGENET_MEAN, IMAGENET_STD, open_dataset
from ofa_kit.errors import WeightsError
from ofa_kit.export.compare import compare
from ofa_kit.export.onnx_export import export, save, with_metadata
from ofa_kit.latency.backends.onnxruntime import OrtBackend
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.supernet.mit_weights import images_and_classes, load_weights, read_weights, save_weights
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import Supernet
from ofa_kit.training.checkpoint import weights_hash
from ofa_kit.training.recipe import Recipe
from ofa_kit.training.run import Run

PROOF_IMAGES = 8
LOWEST_RESOLUTION = 32


@dataclass(frozen=True, kw_only=True)
class ImportedSubnet:
    """A static network of MIT's as an ONNX model."""

    model_path: Path
    space: SearchSpace
    arch: ArchConfig
    max_relative_difference: float
    """Largest difference of a logit between ONNX Runtime and PyTorch, relative to the largest logit."""


def import_supernet(file: Path, space_name: str, folder: Path, *, data: str | None = None) -> Run:
    """Make a run of the supernet in `file`; without data it has latencies and no accuracies."""
    Run.refuse_begun(folder)
    space = preset(space_name)
    mit_class(space)
    weights = read_weights(file)
    in_channels, num_classes = images_and_classes(weights, str(file))
    space = space.adapted(in_channels=in_channels, num_classes=num_classes)
    info = _info_without_data(space) if data is None else _matching_info(data, space, file)
    supernet = Supernet(space)
    load_weights(supernet, weights, str(file))
    recipe = Recipe.parse({"space": space_name, "data": info.data}, "command line")
    run = Run.create(folder, recipe, info)
    run.save_supernet(supernet.state_dict())
    return run


def import_subnet(file: Path, config: Path, resolution: int, target: Path) -> ImportedSubnet:
    """Export the static network in `file`, described by MIT's net.config, as verified ONNX."""
    model_path, _ = deployment_paths(target)
    if resolution < LOWEST_RESOLUTION:
        raise WeightsError(f"--resolution must be at least {LOWEST_RESOLUTION}, found {resolution}")
    space, arch = arch_of_net_config(_read_json(config), resolution)
    subnet = Subnet(space, arch)
    load_weights(subnet, read_weights(file), str(file))
    subnet.eval()
    model = export(subnet)
    session = OrtBackend(DeviceProfile.load("cpu-ort")).load(model.SerializeToString())
    proof = compare(subnet, lambda images: session.predict([images]), _random_images(subnet))
    facts = {
        **network_facts(subnet, weights_hash(subnet.state_dict())),
        "imported_from": file.name,
        "max_relative_difference": proof.max_relative_difference,
    }
    storage.writable_folder(model_path.parent)
    save(with_metadata(model, {f"ofa_kit.{key}": value for key, value in facts.items()}), model_path)
    return ImportedSubnet(
        model_path=model_path, space=space, arch=arch, max_relative_difference=proof.max_relative_difference
    )


def export_weights(run: Run, out: Path) -> None:
    """Write a run's supernet as MIT's package reads it; a WeightsError when MIT has no such space."""
    mit_class(run.space)
    supernet, _ = run.load_supernet()
    save_weights(supernet, out)


def _matching_info(data: str, space: SearchSpace, file: Path) -> DatasetInfo:
    """Return what is known of the data; a WeightsError when the network is made for others."""
    info = open_dataset(data, photo_size=max(space.resolutions)).info
    if (info.in_channels, info.num_classes) != (space.in_channels, space.num_classes):
        raise WeightsError(
            f"'{file}' is a network for {space.num_classes} classes and {space.in_channels} channels, the data "
            f"'{data}' have {info.num_classes} and {info.in_channels}; give its own data, or leave --data out"
        )
    return info


def _info_without_data(space: SearchSpace) -> DatasetInfo:
    """Return the preparation of ImageNet's photos, on which MIT trained, and numbers as class names."""
    channels = space.in_channels
    return DatasetInfo(
        data=NO_DATA,
        class_names=tuple(str(index) for index in range(space.num_classes)),
        in_channels=channels,
        image_size=max(space.resolutions),
        mean=IMAGENET_MEAN if channels == 3 else (0.5,) * channels,
        std=IMAGENET_STD if channels == 3 else (0.5,) * channels,
        crop_fraction=0.875,
        flip=True,
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"cannot read '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise WeightsError(f"'{path}' is not JSON ({error}); give MIT's net.config") from error
    if not isinstance(found, dict):
        raise WeightsError(f"'{path}' holds no description of a network; give MIT's net.config")
    return found


def _random_images(subnet: Subnet) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return single images of noise; their labels mean nothing."""
    size, generator = subnet.arch.resolution, torch.Generator().manual_seed(0)
    shape = (1, subnet.space.in_channels, size, size)
    return [(torch.randn(shape, generator=generator), torch.zeros(1)) for _ in range(PROOF_IMAGES)]
