"""Recurrent trees: texts and tokens, the published equations, parameters, pictures."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_kit.errors import OfaKitError, UnknownNameError, WeightsError
from ofa_kit.nas.recurrent.any_cell import find_cell, make_language_model, params_of_cell, read_cell, write_cell
from ofa_kit.nas.recurrent.genotype import PRESETS as GENOTYPES
from ofa_kit.nas.recurrent.tree import PRESETS, TreeGenotype, from_tokens, read_tree, token_sizes, tokens_of, write_tree
from ofa_kit.nas.recurrent.tree_cell import TreeCell
from ofa_kit.nas.recurrent.tree_picture import draw_tree, tree_places

NAS_CELL = PRESETS["nas-cell"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def trees(draw):
    return from_tokens([draw(st.integers(0, size - 1)) for size in token_sizes(draw(st.integers(1, 9)))])


@settings(deadline=None)
@given(trees())
def test_text_and_tokens_round_trip(tree):
    assert read_tree(write_tree(tree)) == tree
    assert from_tokens(tokens_of(tree)) == tree
    assert len(tokens_of(tree)) == len(token_sizes(tree.base))


def test_a_text_says_which_kind_of_cell_it_is(tmp_path):
    for name, genotype in (("nas-cell", NAS_CELL), ("enas", GENOTYPES["enas"])):
        text = write_cell(genotype)
        (tmp_path / name).write_text(f"{text}\n")
        assert read_cell(text) == find_cell(name) == find_cell(text) == find_cell(str(tmp_path / name)) == genotype


@pytest.mark.parametrize(
    "text",
    [
        "Genotype(tree=[], inject=('add', 'tanh'), index=(0, 0))",
        "Genotype(tree=[('add', 'tanh'), ('add', 'tanh')], inject=('add', 'tanh'), index=(0, 0))",
        "Genotype(tree=[('add', 'tan')], inject=('add', 'tanh'), index=(0, 0))",
        "Genotype(tree=[('sub', 'tanh')], inject=('add', 'tanh'), index=(0, 0))",
        "Genotype(tree=[('add', 'tanh')], inject=('add', 'tanh'), index=(0, 1))",
        "Genotype(tree=[('add', 'tanh')], inject=('add', 'tanh'), index=(0,))",
        "Genotype(tree=[('add', 'tanh')], inject='add', index=(0, 0))",
        "Genotype(tree=3, inject=('add', 'tanh'), index=(0, 0))",
        "Genotype(tree=__import__('os'), inject=('add', 'tanh'), index=(0, 0))",
    ],
)
def test_what_is_no_tree_is_refused(text):
    with pytest.raises((WeightsError, UnknownNameError)):
        read_tree(text)


def products(cell, x, state):
    """Return what the leaves read of the input and of the state."""
    base = cell.genotype.base
    return (x @ cell.input_weight).chunk(base, -1), (state @ cell.state_weight).chunk(base, -1)


def test_a_tree_computes_the_papers_example():
    """Zoph & Le 2017, figure 5: base 2, memory injected into node 0 and taken from node 1."""
    tree = TreeGenotype((("add", "tanh"), ("multiply", "relu"), ("multiply", "sigmoid")), ("add", "relu"), 1, 0)
    cell = TreeCell(tree, 5, seeded(), init_range=0.8)
    x, h, c = (torch.randn((3, 5), generator=seeded(seed)) for seed in (1, 2, 3))
    outputs, (state, memory) = cell(x[None], (h, c))
    (w1, w3), (w2, w4) = products(cell, x, h)
    a0 = torch.relu(torch.tanh(w1 + w2) + c)
    a1 = torch.relu(w3 * w4)
    assert torch.allclose(state, torch.sigmoid(a0 * a1), atol=1e-6)
    assert torch.allclose(memory, w3 * w4, atol=1e-6)
    assert torch.equal(outputs[0], state)


def test_the_published_cell_computes_its_published_equations():
    cell = TreeCell(NAS_CELL, 4, seeded(), init_range=0.8)
    x, h, c = (torch.randn((2, 4), generator=seeded(seed)) for seed in (1, 2, 3))
    _, (state, memory) = cell(x[None], (h, c))
    i, m = products(cell, x, h)
    sigmoid, relu, tanh = torch.sigmoid, torch.relu, torch.tanh
    left = tanh(tanh(sigmoid(i[0] + m[0]) * relu(i[1] + m[1])) + c)
    kept = left * tanh(sigmoid(i[2] + m[2]) + relu(i[3] * m[3]))
    right = tanh(tanh(tanh(i[4] + m[4]) * sigmoid(i[5] + m[5])) + sigmoid(tanh(i[6] + m[6]) + sigmoid(i[7] + m[7])))
    assert torch.allclose(memory, kept, atol=1e-6)
    assert torch.allclose(state, tanh(kept * right), atol=1e-6)


@pytest.mark.parametrize("base", [1, 3, 8])
def test_parameters_are_counted(base):
    tree = from_tokens([0] * len(token_sizes(base)))
    model = make_language_model(tree, 12, 40, seeded())
    assert model.params == params_of_cell(tree, 12, 40)


def test_a_picture_shows_each_node_between_the_two_that_it_joins(tmp_path):
    places = tree_places(NAS_CELL)
    assert len(set(places)) == 15
    for node in range(8, 15):
        left, right = (places[read] for read in NAS_CELL.read_by(node))
        assert places[node][0] > max(left[0], right[0])
        assert right[1] < places[node][1] < left[1]
    draw_tree(NAS_CELL, tmp_path / "tree.svg")
    assert (tmp_path / "tree.svg").read_text().startswith("<?xml")
    with pytest.raises(OfaKitError, match=r"ends in .png, .svg, .pdf"):
        draw_tree(NAS_CELL, tmp_path / "tree.gif")
