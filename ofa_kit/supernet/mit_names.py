"""Names in MIT once-for-all's state dicts, for each tensor of our networks; older names are read too."""

import re

from ofa_kit.arch.ofa_net_config import mit_class
from ofa_kit.supernet.subnet import Subnet
from ofa_kit.supernet.supernet import Supernet

Network = Supernet | Subnet
MODULES = {
    "": "linear",
    "conv": "conv",
    "bn": "bn",
    "expand": "inverted_bottleneck.conv",
    "expand_bn": "inverted_bottleneck.bn",
    "depthwise": "depth_conv.conv",
    "depthwise_bn": "depth_conv.bn",
    "kernel_transforms": "depth_conv.conv",
    "se_reduce": "depth_conv.se.fc.reduce",
    "se_expand": "depth_conv.se.fc.expand",
    "project": "point_linear.conv",
    "project_bn": "point_linear.bn",
}
BOTTLENECK_MODULES = {
    "reduce": "conv1.conv",
    "reduce_bn": "conv1.bn",
    "middle": "conv2.conv",
    "middle_bn": "conv2.bn",
    "project": "conv3.conv",
    "project_bn": "conv3.bn",
    "shortcut": "downsample.conv",
    "shortcut_bn": "downsample.bn",
}
REPEATED = re.compile(r"\.(conv|bn|linear)(?:\.\1)+\.")


def mit_names(net: Network) -> dict[str, str]:
    """Return MIT's newest name of every tensor, by ours; a WeightsError when MIT has no such space."""
    is_resnet = mit_class(net.space) == "ResNets"
    modules = MODULES | BOTTLENECK_MODULES if is_resnet else MODULES
    places = _places(net)
    names = {}
    for key in net.state_dict():
        _, layer, rest = key.split(".", 2)
        module, _, tensor = rest.rpartition(".")
        name = f"{places[layer]}.{modules[module]}"
        if module == "kernel_transforms":
            tensor = f"{tensor}_matrix"
        elif isinstance(net, Supernet) and (is_resnet or layer.startswith("stage")):
            name = _wrapped(name)
        names[key] = f"{name}.{tensor}"
    return names


def plain_name(name: str) -> str:
    """Return the name that all generations of MIT's files have in common: no wrappers, no DataParallel."""
    name = name.removeprefix("module.").replace(".mobile_inverted_conv.", ".conv.")
    return REPEATED.sub(r".\1.", name)


def _wrapped(name: str) -> str:
    """Name a convolution, batch norm or linear layer twice: MIT's elastic layers hold an ordinary one."""
    last = name.rpartition(".")[2]
    return f"{name}.{last}" if last in ("conv", "bn", "linear") else name


def _places(net: Network) -> dict[str, str]:
    """Return MIT's module of each layer; numbers count the convolutions of the stem and the blocks that are there."""
    kind = mit_class(net.space)
    inner = "" if kind == "ResNets" else ".conv"
    stem = [name for name in net.layers if name.startswith("stem") and name != "stem_pool"]
    blocks = [name for name in net.layers if name.startswith(("first", "stage"))]
    places = {name: f"blocks.{index}{inner}" for index, name in enumerate(blocks)}
    places["final_expand"] = "final_expand_layer" if kind == "MobileNetV3" else "feature_mix_layer"
    places |= {"feature_mix": "feature_mix_layer", "classifier": "classifier"}
    if kind != "ResNets":
        return places | {"stem": "first_conv"}
    residual = [f"stem{index}" for index, conv in enumerate(net.space.stem) if conv.residual]
    return places | {name: f"input_stem.{i}" + ".conv" * (name in residual) for i, name in enumerate(stem)}
