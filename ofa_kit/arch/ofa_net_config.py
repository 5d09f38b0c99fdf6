"""MIT once-for-all's `net.config`: the JSON description of a static network, written and read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from ofa_kit.arch.choices import StageSpace
from ofa_kit.arch.config import ArchConfig, StageConfig
from ofa_kit.arch.layer import Layer, make_divisible
from ofa_kit.arch.layers import layers
from ofa_kit.arch.presets import preset
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import WeightsError, some_of

Config = dict[str, Any]
OFA_SPACES = {
    "ofa-mbv3-w1.0": "MobileNetV3",
    "ofa-mbv3-w1.2": "MobileNetV3",
    "ofa-proxyless-w1.3": "ProxylessNASNets",
    "ofa-resnet50d": "ResNets",
}
"""The spaces that MIT's package has too, with its class of their static networks."""
ACTIVATIONS = {"relu": "relu", "relu6": "relu6", "hard_swish": "h_swish", "none": None}
RENAMED = {"MobileInvertedResidualBlock": "ResidualBlock", "MBInvertedConvLayer": "MBConvLayer"}
PLAIN_CONV = {"dilation": 1, "groups": 1, "bias": False, "has_shuffle": False, "use_se": False}
OPS_ORDER = {"ops_order": "weight_bn_act"}
DEFAULTS: dict[str, Config] = {
    "ConvLayer": {"kernel_size": 3, "stride": 1, **PLAIN_CONV, "use_bn": True, "act_func": "relu", **OPS_ORDER},
    "MBConvLayer": {"kernel_size": 3, "stride": 1, "expand_ratio": 6, "act_func": "relu6", "use_se": False},
    "ResNetBottleneckBlock": {"kernel_size": 3, "stride": 1, "expand_ratio": 0.25, "act_func": "relu", "groups": 1},
    "LinearLayer": {"bias": True, "use_bn": False, "act_func": None, **OPS_ORDER},
}
"""What MIT's layers take for a key that a file leaves out."""
DEFAULTS["MBConvLayer"] |= {"mid_channels": None, "groups": None}
DEFAULTS["ResNetBottleneckBlock"] |= {"mid_channels": None, "downsample_mode": "avgpool_conv"}
TRAINING_ONLY = ("dropout_rate", "momentum")


def mit_class(space: SearchSpace) -> str:
    """Return the name of MIT's class for static networks of a space; a WeightsError when MIT has no such space."""
    for name, kind in OFA_SPACES.items():
        same = preset(name).adapted(in_channels=space.in_channels, num_classes=space.num_classes)
        if replace(same, name=space.name, resolutions=space.resolutions) == space:
            return kind
    raise WeightsError(f"MIT's once-for-all has no space '{space.name}'; choose one of: {', '.join(OFA_SPACES)}")


def net_config(space: SearchSpace, arch: ArchConfig) -> Config:
    """Return MIT's description of an architecture, ready for JSON."""
    kind, net = mit_class(space), layers(space, arch)
    named = {layer.name: layer for layer in net}
    config: Config = {"name": kind, "bn": {"momentum": 0.1, "eps": space.bn_eps, "ws_eps": None}}
    stem = [_conv(layer) for layer in net if layer.name.startswith("stem") and layer.op == "conv"]
    config |= {"input_stem": stem} if kind == "ResNets" else {"first_conv": stem[0]}
    blocks = [layer for layer in net if layer.op in ("inverted_residual", "bottleneck")]
    expands = [1] * bool(space.first_width) + [e for stage in arch.stages for e in stage.expand_ratios]
    config["blocks"] = [_block(layer, expand) for layer, expand in zip(blocks, expands, strict=True)]
    if kind == "MobileNetV3":
        config["final_expand_layer"] = _conv(named["final_expand"])
    if kind != "ResNets":
        config["feature_mix_layer"] = _conv(named["feature_mix" if kind == "MobileNetV3" else "final_expand"])
    last = named["classifier"]
    features = {"in_features": last.in_channels, "out_features": last.out_channels}
    config["classifier"] = {"name": "LinearLayer", **features, **DEFAULTS["LinearLayer"], "dropout_rate": 0}
    return config


def arch_of_net_config(config: Mapping[str, Any], resolution: int) -> tuple[SearchSpace, ArchConfig]:
    """Return the shipped space, adapted to the classes, and its architecture that has exactly these layers.

    A WeightsError says what differs from the closest. The space gets the resolution where it lacks it.
    """
    try:
        given, candidates = _facts(config), _candidates(config, resolution)
        found = [(space, _closest_arch(space, config, resolution)) for space in candidates]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(
            f"this is no net.config of MIT's once-for-all ({error!r}); give the one of the net"
        ) from error
    differences = [_differences(given, _facts(net_config(space, arch)), space.name) for space, arch in found]
    closest = min(range(len(found)), key=lambda index: len(differences[index]))
    if differences[closest]:
        raise WeightsError(
            f"the net.config describes no network of {', '.join(space.name for space in candidates)}; "
            f"{some_of(differences[closest])}; only networks of these spaces can be read"
        )
    return found[closest]


def _conv(layer: Layer) -> Config:
    """Return a convolution of stem or head; one with a shortcut stands in a residual block."""
    config = {
        "name": "ConvLayer",
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        **PLAIN_CONV,
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "use_bn": layer.op == "conv",
        "act_func": ACTIVATIONS[layer.activation],
        "dropout_rate": 0,
        **OPS_ORDER,
    }
    return {"name": "ResidualBlock", "conv": config, "shortcut": _identity(layer)} if layer.shortcut else config


def _block(layer: Layer, expand_ratio: float) -> Config:
    shape = {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "expand_ratio": expand_ratio,
        "mid_channels": layer.hidden_channels if layer.hidden_channels != layer.in_channels else None,
        "act_func": ACTIVATIONS[layer.activation],
    }
    if layer.op == "bottleneck":
        groups = {"groups": 1, "downsample_mode": layer.downsample}
        return {"name": "ResNetBottleneckBlock", **shape, "mid_channels": layer.hidden_channels, **groups}
    conv = {"name": "MBConvLayer", **shape, "use_se": bool(layer.squeeze_channels), "groups": None}
    return {"name": "ResidualBlock", "conv": conv, "shortcut": _identity(layer) if layer.shortcut else None}


def _identity(layer: Layer) -> Config:
    channels = {"in_channels": layer.in_channels, "out_channels": layer.out_channels}
    return {"name": "IdentityLayer", **channels, "use_bn": False, "act_func": None, "dropout_rate": 0, **OPS_ORDER}


def _candidates(config: Mapping[str, Any], resolution: int) -> list[SearchSpace]:
    """Return the spaces of a description's class, for its images and classes."""
    names = [name for name, kind in OFA_SPACES.items() if kind == config["name"]]
    if not names:
        raise ValueError(f"the class is '{config['name']}'")
    first = config["input_stem"][0] if "input_stem" in config else config["first_conv"]
    classes = config["classifier"]["out_features"]
    spaces = [preset(name).adapted(in_channels=first["in_channels"], num_classes=classes) for name in names]
    return [replace(space, resolutions=tuple(sorted({*space.resolutions, resolution}))) for space in spaces]


def _facts(config: Mapping[str, Any]) -> Config:
    """Return everything that decides what the network computes, by its place in the description."""
    eps = 1e-3 if config["name"] == "ProxylessNASNets" else 1e-5
    bn = {"eps": eps, "ws_eps": None, **(config.get("bn") or {})}
    facts: Config = {"name": config["name"]} | {f"bn.{key}": v for key, v in bn.items() if key not in TRAINING_ONLY}
    for place in ("first_conv", "final_expand_layer", "feature_mix_layer", "classifier"):
        facts |= dict(_layer_facts(place, config[place])) if config.get(place) else {}
    for place in ("input_stem", "blocks"):
        for index, layer in enumerate(config.get(place) or ()):
            facts |= dict(_layer_facts(f"{place}.{index}", layer))
    return facts


def _layer_facts(place: str, layer: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    inner = _inner(layer)
    if inner is not layer:
        shortcut = layer.get("shortcut")
        yield f"{place}.shortcut", shortcut is not None and shortcut["name"] != "ZeroLayer"
        place = f"{place}.conv"
    for key, value in _complete(inner).items():
        if key == "expand_ratio":  # what counts are the channels it leads to, and whether there is an expansion
            yield f"{place}.expands", value != 1
        elif key not in TRAINING_ONLY:
            yield f"{place}.{key}", value


def _inner(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the layer in a residual block, or the layer itself."""
    found: Mapping[str, Any] = layer.get("conv") or layer.get("mobile_inverted_conv") or layer
    return found


def _complete(layer: Mapping[str, Any]) -> Config:
    """Return a layer under its new name, with what its file leaves out and with its hidden channels."""
    name = RENAMED.get(layer["name"], layer["name"])
    if name not in DEFAULTS:
        raise ValueError(f"unknown layer '{name}'")
    complete = DEFAULTS[name] | dict(layer) | {"name": name}
    if name == "MBConvLayer" and complete["mid_channels"] is None:
        complete["mid_channels"] = round(complete["in_channels"] * complete["expand_ratio"])
    if name == "ResNetBottleneckBlock":
        middle = complete["mid_channels"] or round(complete["out_channels"] * complete["expand_ratio"])
        complete["mid_channels"] = make_divisible(middle)
    return complete


def _closest_arch(space: SearchSpace, config: Mapping[str, Any], resolution: int) -> ArchConfig:
    """Return the architecture whose choices are nearest to a description's; blocks of one width are a stage."""
    blocks = [_complete(_inner(block)) for block in config["blocks"][bool(space.first_width) :]]
    runs = [list(run) for _, run in groupby(blocks, key=lambda block: block["out_channels"])]
    runs += [[]] * len(space.stages)  # so that no stage lacks one
    stages = tuple(_closest_stage(stage, run) for stage, run in zip(space.stages, runs, strict=False))
    stem: list[int] = []
    for conv in space.stem:
        if conv.residual:
            stem.append(int(len(config["input_stem"]) == len(space.stem)))
        elif conv.elastic:
            outside = _inner(config["input_stem"][-1 if stem else 0])["out_channels"]
            stem.append(_nearest(conv.widths, outside))
    return ArchConfig(resolution, stages, tuple(stem))


def _closest_stage(stage: StageSpace, run: Sequence[Config]) -> StageConfig:
    """Return the stage nearest to a run of blocks; the smallest where there are none."""
    depth = _nearest(stage.depths, len(run))
    if not run:
        return StageConfig(stage.widths[0], stage.kernel_sizes[:1] * depth, stage.expand_ratios[:1] * depth)
    blocks = [*run, *[run[-1]] * depth][:depth]
    kernels = tuple(_nearest(stage.kernel_sizes, block["kernel_size"]) for block in blocks)
    bases = [block["out_channels" if stage.block == "bottleneck" else "in_channels"] for block in blocks]
    ratios = [block["mid_channels"] / base for block, base in zip(blocks, bases, strict=True)]
    expands = tuple(_nearest(stage.expand_ratios, ratio) for ratio in ratios)
    return StageConfig(_nearest(stage.widths, run[0]["out_channels"]), kernels, expands)


def _nearest(choices: Sequence[Any], value: float) -> Any:
    return min(choices, key=lambda choice: abs(choice - value))


def _differences(given: Config, own: Config, name: str) -> list[str]:
    places = [place for place in {**given, **own} if given.get(place, "absent") != own.get(place, "absent")]
    return [f"{p} is {given.get(p, 'absent')}, in '{name}' {own.get(p, 'absent')}" for p in places]
