"""Recurrent cells and their language model compute what the literature says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ofa_kit.data.text_batches import IGNORED, columns
from ofa_kit.errors import OfaKitError, UnknownNameError, WeightsError
from ofa_kit.nas.recurrent.alphas import RecurrentAlphas, derive, edges_of_node, one_hot
from ofa_kit.nas.recurrent.any_cell import find_cell
from ofa_kit.nas.recurrent.cell import GenotypeCell, LstmCell
from ofa_kit.nas.recurrent.dropout import DropoutRates, Masks
from ofa_kit.nas.recurrent.genotype import (
    FUNCTIONS,
    OPERATIONS,
    PRESETS,
    RecurrentGenotype,
    read_genotype,
    write_genotype,
)
from ofa_kit.nas.recurrent.language_model import (
    LanguageModel,
    cross_entropy,
    genotype_params,
    lstm_hidden,
    make_lstm,
    perplexity,
)
from ofa_kit.nas.recurrent.search_cell import SearchCell

HIDDEN, BATCH, ROWS, WORDS = 6, 3, 5, 11


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def genotypes(draw):
    nodes = [(draw(st.sampled_from(FUNCTIONS)), draw(st.integers(0, n))) for n in range(draw(st.integers(1, 9)))]
    concat = draw(st.lists(st.integers(0, len(nodes)), min_size=1, unique=True))
    return RecurrentGenotype(tuple(nodes), tuple(concat), draw(st.sampled_from(FUNCTIONS)))


@settings(deadline=None)
@given(genotypes())
def test_the_text_form_round_trips(genotype):
    assert read_genotype(write_genotype(genotype)) == genotype


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_found_by_name_text_and_file(name, tmp_path):
    text = write_genotype(PRESETS[name])
    (tmp_path / "cell.txt").write_text(f"DARTS = {text}\n")
    assert find_cell(name) == find_cell(text) == find_cell(str(tmp_path / "cell.txt")) == PRESETS[name]


def test_published_cells_have_their_published_outputs():
    assert PRESETS["enas"].concat == (2, 5, 6, 9, 10, 11)
    assert "concat=range(1, 9)" in write_genotype(PRESETS["darts-v2"])


@pytest.mark.parametrize(
    "text",
    [
        "Genotype()",
        "Genotype(recurrent=[], concat=[1])",
        "Genotype(recurrent=[('tanh', 1)], concat=[1])",
        "Genotype(recurrent=[('none', 0)], concat=[1])",
        "Genotype(recurrent=[('tanh', 0)], concat=[2])",
        "Genotype(recurrent=[('tanh', 0)], concat=[])",
        "Genotype(recurrent=__import__('os'), concat=[1])",
        "Genotype(normal=[('tanh', 0)], normal_concat=[1])",
        "Genotype(recurrent=[('tanh', 0)], concat=[1], first='sin')",
        "Genotype(recurrent=[('tanh', 0)], concat=[1], first=[])",
    ],
)
def test_what_is_no_cell_is_refused(text):
    with pytest.raises((WeightsError, UnknownNameError)):
        read_genotype(text)


def test_a_misspelt_preset_is_told(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'darts-v2'"):
        find_cell("darts-v3")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OfaKitError, match="cannot read the genotype"):
        find_cell(str(tmp_path / "binary"))


def test_a_cell_computes_the_highway_equations():
    genotype = RecurrentGenotype.of_all([("sigmoid", 0), ("relu", 0), ("identity", 2)])
    cell = GenotypeCell(genotype, HIDDEN, seeded(), init_range=0.7).double()
    x, h = torch.randn((2, BATCH, HIDDEN), generator=seeded(1), dtype=torch.float64)
    gate, candidate = torch.cat([x, h], -1).matmul(torch.cat([cell.input_weight, cell.state_weight])).chunk(2, -1)
    nodes = [h + gate.sigmoid() * (candidate.tanh() - h)]
    for (name, source), weight in zip(genotype.nodes, cell.node_weights, strict=True):
        gate, candidate = (nodes[source] @ weight).chunk(2, -1)
        function = {"sigmoid": torch.sigmoid, "relu": torch.relu, "identity": lambda t: t}[name]
        nodes.append(nodes[source] + gate.sigmoid() * (function(candidate) - nodes[source]))
    outputs, (state,) = cell(x[None], (h,))
    assert torch.allclose(outputs[0], sum(nodes[1:]) / 3, atol=1e-12)
    assert torch.equal(outputs[0], state)


@settings(deadline=None, max_examples=25)
@given(genotypes(), st.booleans())
def test_a_one_hot_mixture_computes_the_derived_cell(genotype, dropout):
    genotype = RecurrentGenotype.of_all(genotype.nodes)
    derived = GenotypeCell(genotype, HIDDEN, seeded(), init_range=0.7).double()
    search = SearchCell(len(genotype.nodes), HIDDEN, seeded(), init_range=0.7, normalize=False).double()
    search.load_state_dict(derived.state_dict())
    inputs = torch.randn((ROWS, BATCH, HIDDEN), generator=seeded(1), dtype=torch.float64)
    rates = DropoutRates(cell_input=0.5, cell_state=0.5, weights=0.3) if dropout else DropoutRates()
    masks = LanguageModel(derived, WORDS, seeded()).mask_drawer(rates, BATCH).draw(seeded(2))
    expected, (state,) = derived(inputs, derived.start(BATCH), masks)
    mixture = one_hot(genotype).double()
    found, (same,) = search(inputs, search.start(BATCH), masks, mixture)
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.allclose(same, state, atol=1e-12)
    assert derive(mixture, len(genotype.nodes)) == genotype


def test_batch_norm_of_the_search_cell_gives_every_node_zero_mean_and_unit_deviation():
    cell = SearchCell(1, HIDDEN, seeded(), init_range=0.7)
    inputs = torch.randn((1, 50, HIDDEN), generator=seeded(1))
    outputs, _ = cell(inputs, cell.start(50), choice=RecurrentAlphas.fresh(1, seeded()).mixture())
    assert outputs[0].mean(0).abs().max() < 1e-5
    assert (outputs[0].std(0, correction=0) - 1).abs().max() < 1e-2


def test_derivation_takes_the_strongest_edge_into_each_node_and_never_none():
    mixture = torch.full((3, len(OPERATIONS)), 0.01)
    mixture[:, 0] = 0.9
    mixture[0, OPERATIONS.index("relu")] = 0.02
    mixture[1, OPERATIONS.index("tanh")] = 0.05
    mixture[2, OPERATIONS.index("identity")] = 0.04
    assert derive(mixture, 2) == RecurrentGenotype.of_all([("relu", 0), ("tanh", 0)])
    assert [edges_of_node(node) for node in (1, 2, 3)] == [slice(0, 1), slice(1, 3), slice(3, 6)]


def test_the_lstm_cell_is_pytorchs():
    cell, theirs = LstmCell(HIDDEN, seeded()), nn.LSTM(HIDDEN, HIDDEN)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(cell.input_weight.t())
        theirs.weight_hh_l0.copy_(cell.state_weight.t())
        theirs.bias_ih_l0.copy_(cell.bias)
        theirs.bias_hh_l0.zero_()
        inputs = torch.randn((ROWS, BATCH, HIDDEN), generator=seeded(1))
        expected, last = theirs(inputs)
        found, state = cell(inputs, cell.start(BATCH))
    assert torch.allclose(found, expected, atol=1e-6)
    assert all(torch.allclose(a, b[0], atol=1e-6) for a, b in zip(state, last, strict=True))


@pytest.mark.parametrize("name", list(PRESETS))
def test_parameters_are_counted_and_the_lstm_has_as_many(name):
    genotype, words, hidden = PRESETS[name], 1000, 120
    model = LanguageModel(GenotypeCell(genotype, hidden, seeded()), words, seeded())
    assert model.params == genotype_params(len(genotype.nodes), hidden, words)
    lstm = make_lstm(model.params, words, seeded())
    step = make_lstm(model.params, words, seeded()).cell.hidden
    assert abs(lstm.params - model.params) / model.params < 0.02
    assert lstm_hidden(lstm.params, words) == step


def test_the_published_evaluation_model_has_23_million_parameters():
    assert genotype_params(8, 850, 10_000) == pytest.approx(23e6, rel=0.01)


def test_perplexity_counts_each_prediction_once_whatever_the_pieces():
    model = LanguageModel(GenotypeCell(PRESETS["darts-v2"], HIDDEN, seeded(), init_range=0.5), WORDS, seeded())
    tokens = torch.randint(0, WORDS, (700,), generator=seeded(3))
    found = columns(tokens, 3)
    with torch.no_grad():
        passed = model(found.inputs, model.cell.start(3))
        logs = F.log_softmax(passed.logits, -1)
        known = found.targets != IGNORED
        picked = logs[known].gather(1, found.targets[known][:, None])
    assert perplexity(model, found) == pytest.approx(math.exp(-float(picked.double().mean())), rel=1e-5)
    assert int(known.sum()) == 699


def test_a_mask_is_the_same_for_all_tokens_of_a_segment_and_scaled():
    model = LanguageModel(GenotypeCell(PRESETS["darts-v1"], 400, seeded()), WORDS, seeded())
    rates = DropoutRates(words=0.2, embedded=0.3, cell_input=0.4, cell_state=0.5, output=0.6, weights=0.25)
    masks = model.mask_drawer(rates, 8).draw(seeded(1))
    for name in ("embedded", "cell_input", "cell_state", "output"):
        mask, rate = getattr(masks, name), getattr(rates, name)
        assert mask.shape == (8, 400)
        assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
        assert float((mask == 0).float().mean()) == pytest.approx(rate, abs=0.03)
    assert {name: mask.shape for name, mask in masks.weights.items()} == {
        "state_weight": (400, 800),
        "node_weights": (8, 400, 800),
    }
    assert model.mask_drawer(DropoutRates(), 8).draw(seeded(1)) == Masks()
    tokens = torch.zeros((2, 8), dtype=torch.int64)
    one, other = (model(tokens, model.cell.start(8), masks).logits for _ in range(2))
    assert torch.equal(one, other)  # nothing is drawn in a pass


def test_padding_is_no_prediction():
    model = LanguageModel(LstmCell(HIDDEN, seeded()), WORDS, seeded())
    found = columns(torch.randint(0, WORDS, (20,), generator=seeded()), 3)
    passed = model.requires_grad_(False)(found.inputs, model.cell.start(3))
    losses = F.cross_entropy(
        passed.logits.flatten(0, 1), found.targets.flatten(), reduction="none", ignore_index=IGNORED
    )
    assert float(cross_entropy(passed, found.targets)) == pytest.approx(float(losses.sum()) / 19, rel=1e-6)
