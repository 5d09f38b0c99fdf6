"""A user's network becomes a supernet that starts as the network itself; what does not fit is named."""

import importlib.util
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.layers import params
from ofa_kit.arch.presets import PRESETS, preset
from ofa_kit.arch.space_file import find_space, read_space, space_from_dict, space_to_dict, write_space
from ofa_kit.errors import ConvertError, RecipeError, UnknownNameError
from ofa_kit.export.compare import compare
from ofa_kit.export.onnx_export import export
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.supernet.convert import TOLERANCE, convert
from ofa_kit.supernet.recognize import recognize
from ofa_kit.supernet.subnet import extract
from ofa_kit.supernet.supernet import resize
from ofa_kit.supernet.trace import trace

SIZE = 64
TORCHVISION = (
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet1_0", "efficientnet_b0", "resnet50",
    "wide_resnet50_2",
)  # fmt: skip
TIMM = ("mobilenetv3_large_100", "efficientnet_b0", "mobilenetv2_100", "resnet50", "resnet50d")


@torch.no_grad()
def lived_in(model: nn.Module) -> nn.Module:
    """Give every tensor a value of its own, and batch norms the statistics of features, as training does."""
    generator = torch.Generator().manual_seed(0)
    model = model.to_empty(device="cpu")
    for key, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif key.endswith("num_batches_tracked"):
            tensor.zero_()
        elif key.endswith("weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(torch.randn(2, 3, SIZE, SIZE, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def built(name: str) -> nn.Module:
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    return lived_in(model)


def images(size: int = SIZE, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_supernet_holds_the_model_and_its_subnets_run(model: nn.Module, rng: np.random.Generator) -> None:
    made = convert(model, resolutions=(SIZE, 48))
    space, supernet = made.space, made.supernet
    expected, found = model(images()), supernet(images(), space.largest())
    assert (expected[0] - expected[1]).abs().max() > 0.01 * expected.abs().max()  # they come from the images
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()  # float32 rounds in another memory format
    assert made.max_relative_difference <= TOLERANCE
    assert params(space, space.largest()) == sum(p.numel() for p in model.parameters())
    arch = space.sample(rng)
    assert ArchConfig.from_row(arch.to_row()) == arch
    assert space.decode(space.encode(arch)) == arch
    for chosen in (space.smallest(), arch):
        logits = supernet(images(), chosen)
        alone = extract(supernet, chosen)(resize(images(), chosen.resolution))
        assert logits.isfinite().all()
        assert (alone - logits).abs().max() <= 1e-4 * logits.abs().max()


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_torchvision_model_becomes_a_supernet(name, rng):
    assert_supernet_holds_the_model_and_its_subnets_run(built(name), rng)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed; it is no dependency")
@pytest.mark.parametrize("name", TIMM)
def test_a_timm_model_becomes_a_supernet(name, rng):
    import timm

    assert_supernet_holds_the_model_and_its_subnets_run(lived_in(timm.create_model(name, pretrained=False)), rng)


class HandSwish(nn.Module):
    """The hard swish of before torch had one."""

    def forward(self, x):
        return x * (F.relu6(x + 3) / 6)


class HandSqueeze(nn.Module):
    """Squeeze-and-excite with linear layers and reshaping."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, 6), nn.ReLU(), nn.Linear(6, channels), nn.Sigmoid())

    def forward(self, x):
        b, c, _, _ = x.size()
        return x * self.fc(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1).expand_as(x)


def conv_bn(inside, outside, kernel=1, stride=1, groups=1, *, bias=False, eps=1e-3):
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=bias)
    return [conv, nn.BatchNorm2d(outside, eps)]


class HandBlock(nn.Module):
    """An inverted residual whose widths are no multiples of eight; its convolutions have biases."""

    def __init__(self, inside, hidden, outside, kernel, stride):
        super().__init__()
        self.branch = nn.Sequential(
            *conv_bn(inside, hidden, bias=True), HandSwish(),
            *conv_bn(hidden, hidden, kernel, stride, hidden, bias=True), HandSwish(),
            HandSqueeze(hidden), *conv_bn(hidden, outside),
        )  # fmt: skip
        self.adds = stride == 1 and inside == outside

    def forward(self, x):
        return x + self.branch(x) if self.adds else self.branch(x)


class HandNet(nn.Module):
    """A network as somebody writes it."""

    def __init__(self, eps=1e-3):
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 10, 3, 2), HandSwish())
        self.blocks = nn.Sequential(
            HandBlock(10, 30, 14, 7, 2), HandBlock(14, 50, 14, 5, 1), HandBlock(14, 42, 14, 3, 1)
        )
        self.last = nn.Sequential(*conv_bn(14, 60, eps=eps), HandSwish())
        self.classifier = nn.Linear(60, 5, bias=False)

    def forward(self, x):
        x = self.last(self.blocks(self.stem(x))).mean((2, 3))
        return self.classifier(F.dropout(x, 0.2, self.training).view(x.size(0), -1))


@torch.no_grad()
def test_a_hand_written_network_gets_the_choices_around_it(rng):
    space = convert(lived_in(HandNet()), resolutions=(SIZE,)).space
    (stage,) = space.stages
    assert stage.depths == (1, 2, 3)
    assert [block.kernel_sizes for block in stage.blocks] == [(3, 5, 7), (3, 5), (3,)]
    hidden = [[round(e * width) for e in b.expand_ratios] for b, width in zip(stage.blocks, (10, 14, 14), strict=True)]
    assert hidden == [[15, 22, 30], [25, 38, 50], [21, 32, 42]]
    assert [block.squeeze_channels for block in stage.blocks] == [6, 6, 6]
    assert (space.channel_divisor, space.bn_eps, stage.gate) == (1, 1e-3, "sigmoid")
    made = convert(lived_in(HandNet()), resolutions=(SIZE, 32))
    for _ in range(20):
        arch = made.space.sample(rng)
        expected = made.supernet(images(), arch)
        found = extract(made.supernet, arch)(resize(images(), arch.resolution))
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
def test_onnx_of_a_converted_subnet_computes_what_pytorch_computes(rng):
    made = convert(built("mobilenet_v3_small"), resolutions=(SIZE, 48))
    backend = backend_for(DeviceProfile.load("cpu-ort"))
    for arch in (made.space.largest(), made.space.sample(rng)):
        subnet = extract(made.supernet, arch)
        session = backend.load(export(subnet, batch=None).SerializeToString())
        compare(subnet, lambda x, s=session: s.predict([x]), [(images(), torch.zeros(2, dtype=torch.int64))])


def squeezed_resnet() -> nn.Module:
    model = torchvision.models.resnet50()
    model.layer1[1].bn3 = nn.Sequential(OrderedDict(norm=model.layer1[1].bn3, squeeze=HandSqueeze(256)))
    return model


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (torchvision.models.vgg11_bn, ("'features.3'", "3x3 max pooling")),
        (torchvision.models.resnet18, ("'layer1.0.conv1'", "found a 3x3 convolution 64->64")),
        (torchvision.models.resnext50_32x4d, ("'layer1.0.conv2'", "in 32 groups")),
        (torchvision.models.densenet121, ("'features.denseblock1.denselayer1, cat'", "found 'cat'")),
        (lambda: torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]), ("'layer4.1.conv2'",)),
        (squeezed_resnet, ("'layer1.1.bn3.squeeze", "the addition that ends a bottleneck")),
        (lambda: HandNet(eps=1e-5), ("'last.1'", "'stem.1'", "eps 1e-05")),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), ("'0'", "batch norm after a 3x3 conv")),
        (lambda: nn.Sequential(*conv_bn(3, 8, 3), nn.AdaptiveAvgPool2d(1)), ("'2'", "an inverted residual")),
    ],
    ids=("vgg", "basic block", "grouped", "concatenation", "dilation", "squeeze", "two eps", "no batch norm", "plain"),
)
def test_what_does_not_fit_is_named(build, says):
    with torch.device("meta"):
        model = build().eval()
    with pytest.raises(ConvertError) as refusal:
        list(recognize(trace(model)))
    for text in (*says, "supported are" if len(says) < 3 else "fine-tune"):
        assert text in str(refusal.value)


def test_the_model_is_left_as_it_was():
    model = lived_in(HandNet()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    convert(model, resolutions=(SIZE,))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_stage_of_two_kinds_is_named():
    model = HandNet()
    model.blocks[2].branch[6].fc[1] = nn.SiLU()
    made = convert(lived_in(model), resolutions=(SIZE,))
    assert [stage.squeeze_activation for stage in made.space.stages] == ["relu", "swish"]
    model.last[2] = nn.ReLU()
    model.classifier = nn.Sequential(nn.Linear(60, 40), nn.Hardswish(), nn.Linear(40, 5))
    with pytest.raises(ConvertError, match=r"'classifier\.0': expected activation relu .*found hard_swish"):
        convert(lived_in(model), resolutions=(SIZE,))


def test_a_forward_that_its_modules_do_not_show_is_refused():
    model = built("mobilenet_v3_small")
    model.classifier[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ConvertError, match="differs from the model"):
        convert(model, resolutions=(SIZE,))


def converted_space():
    return convert(HandNet(), resolutions=(SIZE, 32)).space


@pytest.mark.parametrize("space", [*PRESETS.values(), "converted"], ids=lambda s: s if isinstance(s, str) else s.name)
def test_a_space_round_trips_through_its_file(space, tmp_path):
    space = converted_space() if space == "converted" else space
    write_space(tmp_path / "space.yaml", space)
    for found in (read_space(tmp_path / "space.yaml"), find_space(str(tmp_path)), find_space(f"{tmp_path}/space.yaml")):
        assert found == space
        assert found.fingerprint == space.fingerprint
        assert found.largest().key == space.largest().key


def test_a_space_is_found_by_name_and_a_likely_one_is_proposed():
    assert find_space("mbv3-tiny") is preset("mbv3-tiny")
    with pytest.raises(UnknownNameError, match="did you mean 'mbv3-tiny'"):
        find_space("mbv3-tini")
    with pytest.raises(RecipeError, match=r"cannot read 'nowhere/space\.yaml'"):
        find_space("nowhere/space.yaml")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stages": []}, "at least one stage"),
        ({"resolutions": []}, "resolution choices"),
        ({"dephts": 3}, "unknown key"),
        ({"channel_divisor": "many"}, "channel_divisor"),
    ],
)
def test_a_space_that_makes_no_networks_is_refused(change, says):
    with pytest.raises((RecipeError, UnknownNameError), match=says):
        space_from_dict(space_to_dict(preset("mbv3-tiny")) | change, "my.yaml")


def test_a_stage_without_all_its_blocks_is_refused():
    values = space_to_dict(converted_space())
    values["stages"][0]["blocks"].pop()
    with pytest.raises(RecipeError, match="2 blocks for a depth of up to 3"):
        space_from_dict(values, "my.yaml")
