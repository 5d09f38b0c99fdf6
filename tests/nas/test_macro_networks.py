"""Macro arcs as texts, and the networks that they describe."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ofa_kit.errors import OfaKitError, RecipeError, UnknownNameError, WeightsError
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.enas.macro_arc import (
    OPERATIONS,
    PRESETS,
    MacroArc,
    MacroLayer,
    find_macro_arc,
    read_macro_arc,
    write_macro_arc,
    write_on_one_line,
)
from ofa_kit.nas.enas.macro_child import MacroChild
from ofa_kit.nas.enas.macro_controller import MacroController
from ofa_kit.nas.enas.macro_network import MacroNetwork
from ofa_kit.nas.enas.macro_onnx import macro_model
from ofa_kit.nas.enas.macro_plan import MacroShape
from tests.nas.macro_arcs import all_operations, expected_params, flat

PUBLISHED = PRESETS["enas-macro"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def arcs(draw):
    layers = []
    for number in range(draw(st.integers(1, 8))):
        bits = draw(st.lists(st.booleans(), min_size=number, max_size=number))
        skips = tuple(place for place, bit in enumerate(bits) if bit)
        layers.append(MacroLayer(draw(st.sampled_from(OPERATIONS)), skips))
    return MacroArc(tuple(layers))


@settings(deadline=None)
@given(arcs())
def test_the_text_forms_round_trip(arc):
    assert read_macro_arc(write_macro_arc(arc)) == arc
    assert read_macro_arc(write_on_one_line(arc)) == arc
    assert read_macro_arc(str(np.array(flat(arc)))) == arc  # as the authors' log prints a sample
    assert len(write_macro_arc(arc).splitlines()) == len(arc.layers)


def test_the_published_arc_is_read_as_its_script_has_it(tmp_path):
    assert len(PUBLISHED.layers) == 24
    assert PUBLISHED.layers[0] == MacroLayer("conv_3x3")
    assert PUBLISHED.layers[1] == MacroLayer("sep_conv_5x5")
    assert PUBLISHED.layers[5] == MacroLayer("sep_conv_5x5", (0, 1, 3))
    assert PUBLISHED.layers[23].skips == (0, 1, 5, 6, 7, 9, 13, 15, 18, 19)
    assert {layer.operation for layer in PUBLISHED.layers} == set(OPERATIONS[:4])
    assert PUBLISHED.skip_rate == pytest.approx(98 / 276)
    (tmp_path / "arc.txt").write_text(write_macro_arc(PUBLISHED))
    assert find_macro_arc("enas-macro") == find_macro_arc(str(tmp_path / "arc.txt")) == PUBLISHED
    assert find_macro_arc(write_on_one_line(PUBLISHED)) == PUBLISHED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no macro arc"),
        ("conv", "is no macro arc"),
        ("0 1", "has L \\(L \\+ 1\\) / 2 numbers, found 2; 1 or 2 layers have 1 or 3"),
        ("0 6 0", "layer 1 of a macro arc has operation 6; ENAS knows 0 conv_3x3"),
        ("0 1 2", "skip bits \\[2\\]; each is 0 or 1"),
        ("0 -1 0", "operation -1"),
    ],
)
def test_what_is_no_arc_is_refused(text, message):
    with pytest.raises(WeightsError, match=message):
        read_macro_arc(text)


def test_a_layer_adds_only_what_lies_before():
    with pytest.raises(WeightsError, match="layer 1 of a macro arc adds outputs \\[1\\]"):
        MacroArc((MacroLayer("conv_3x3"), MacroLayer("conv_3x3", (1,))))
    with pytest.raises(UnknownNameError, match="did you mean 'conv_3x3'"):
        MacroArc((MacroLayer("conv_3x2"),))
    with pytest.raises(UnknownNameError, match="neither a text nor a file"):
        find_macro_arc("enas-makro")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "arc").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OfaKitError, match="cannot read the macro arc"):
        find_macro_arc(str(tmp_path / "arc"))


@pytest.mark.parametrize("seed", range(3))
def test_parameters_are_counted(seed):
    arc = MacroController(7, seeded(), hidden=8, bound=2.0).arcs(
        MacroController(7, seeded()).sample(4, seeded(seed)).tokens
    )[3]
    assert params_of(MacroNetwork(arc, MacroShape(layers=7, channels=6))) == expected_params(arc, 6)


def test_the_published_network_has_31_million_parameters():
    """As the paper describes it; the authors' code, whose separable operations are not, makes 42.6 million."""
    network = MacroNetwork(PUBLISHED, MacroShape(layers=24, channels=96))
    assert params_of(network) == expected_params(PUBLISHED, 96) == 30_947_424
    assert macs_of(network, (3, 32, 32)) == 4_370_280_192
    assert params_of(MacroChild(MacroShape(layers=12, channels=36, widens=False))) == 697_860


@pytest.mark.parametrize("size", [9, 16])
@pytest.mark.parametrize("skips", [False, True])
def test_onnx_computes_what_pytorch_computes(size, skips):
    arc = all_operations(skips)
    shape = MacroShape(layers=6, channels=4, image_size=size, num_classes=7)
    torch.manual_seed(0)
    network = MacroNetwork(arc, shape)
    images = torch.randn((5, 3, size, size), generator=seeded(1))
    for _ in range(3):
        network(images)  # batch norm learns statistics that are not 0 and 1
    network.eval()
    session = onnxruntime.InferenceSession(macro_model(network, batch=None).SerializeToString())
    (found,) = session.run(None, {"images": images.numpy()})
    expected = network(images).detach()
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())


def test_a_network_learns_in_steps(tmp_path):
    torch.manual_seed(0)
    network = MacroNetwork(all_operations(), MacroShape(layers=6, channels=6, image_size=12, num_classes=3))
    images, labels = torch.randn((9, 3, 12, 12), generator=seeded(1)), torch.arange(9) % 3
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(network(images), labels)
        sgd.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        sgd.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_network_of_another_arc_is_refused():
    with pytest.raises(WeightsError, match="arc has 24 layers and the network 12"):
        MacroNetwork(PUBLISHED, MacroShape(layers=12, channels=4))
    with pytest.raises(RecipeError, match="too small"):
        MacroShape(layers=6, channels=4, image_size=2)
