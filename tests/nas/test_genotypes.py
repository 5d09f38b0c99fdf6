"""Genotypes are values, their text form round-trips, and nothing in it is executed."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ofa_kit.errors import OfaKitError, UnknownNameError, WeightsError
from ofa_kit.nas.cells.arc import MICRO_OPERATIONS, is_arc, micro_cell, read_arc, write_arc
from ofa_kit.nas.cells.genotype import OPERATIONS, Cell, Edge, Genotype, all_edges
from ofa_kit.nas.cells.presets import PRESETS, find_genotype
from ofa_kit.nas.cells.sampling import random_micro_genotype
from ofa_kit.nas.cells.text import read_genotype, write_genotype


@st.composite
def cells(draw):
    nodes = draw(st.integers(1, 6))
    names = st.sampled_from(OPERATIONS)
    edges = tuple(tuple(Edge(draw(names), draw(st.integers(0, node + 1))) for _ in range(2)) for node in range(nodes))
    concat = draw(st.lists(st.integers(2, nodes + 1), min_size=1, unique=True))
    return Cell(edges, tuple(concat))


@given(st.builds(Genotype, cells(), cells()))
def test_the_text_form_round_trips(genotype):
    assert read_genotype(write_genotype(genotype)) == genotype


@st.composite
def micro_genotypes(draw):
    nodes = draw(st.integers(1, 7))
    operations = st.integers(0, len(MICRO_OPERATIONS) - 1)

    def cell():
        return micro_cell([(draw(st.integers(0, edge // 2 + 1)), draw(operations)) for edge in range(2 * nodes)])

    return Genotype(cell(), cell())


@given(micro_genotypes())
def test_arcs_of_enas_round_trip_as_text_and_as_numpy_prints_them(genotype):
    text = write_arc(genotype)
    assert is_arc(text)
    assert read_arc(text) == find_genotype(text) == genotype
    numbers = np.array(text.split(), int)
    printed = "\n".join(np.array2string(half, max_line_width=20) for half in np.split(numbers, 2))
    assert find_genotype(printed) == read_genotype(write_genotype(genotype)) == genotype


def test_random_cells_of_enas_are_uniform_and_follow_their_generator():
    drawn = [random_micro_genotype(3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    generator = torch.Generator().manual_seed(0)
    cells = [random_micro_genotype(3, generator).normal for _ in range(2000)]
    counts = Counter(name for cell in cells for name, _ in cell.pairs)
    assert set(counts) == set(MICRO_OPERATIONS)
    assert all(abs(count / 12_000 - 1 / len(counts)) < 0.02 for count in counts.values())
    last = Counter(source for cell in cells for _, source in cell.pairs[-2:])
    assert all(abs(last[source] / 4000 - 1 / 4) < 0.03 for source in range(4))
    assert all(read_arc(write_arc(Genotype(cell, cell))).normal == cell for cell in cells[:50])


def test_the_published_arc_is_a_preset_and_a_file(tmp_path):
    cell = PRESETS["enas-micro"].reduce
    assert cell.pairs[-2:] == [("max_pool_3x3", 0), ("sep_conv_5x5", 1)]
    assert cell.concat == (2, 4, 5, 6), "node 3 is read by node 4"
    (tmp_path / "arc.txt").write_text(write_arc(PRESETS["enas-micro"]) + "\n")
    assert find_genotype(str(tmp_path / "arc.txt")) == PRESETS["enas-micro"]
    with pytest.raises(WeightsError, match="dil_conv_3x3"):
        write_arc(PRESETS["darts-v2"])


@pytest.mark.parametrize(
    ("arc", "message"),
    [
        ("0 1 1 1 0 0 1", "multiple of 8"),
        ("0 5 1 1 0 0 1 1", "node 2 of the normal cell has operation 5; ENAS knows 0 sep_conv_3x3"),
        ("0 1 1 1 0 0 2 1", "node 2 of a cell reads node 2; it can read 0 to 1"),
        ("0 1 1 1 0 -1 1 1", "operation -1"),
        ("print('x')", "no arc of ENAS"),
        ("3", "no arc of ENAS"),
    ],
)
def test_other_arcs_are_refused(arc, message):
    with pytest.raises(WeightsError, match=message):
        read_arc(arc)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_round_trip_and_are_found_by_name_text_and_file(name, tmp_path):
    genotype = PRESETS[name]
    text = write_genotype(genotype)
    (tmp_path / "genotype.txt").write_text(f"genotype = {text}\n", encoding="utf-8")
    assert find_genotype(name) == find_genotype(text) == find_genotype(str(tmp_path / "genotype.txt")) == genotype


def test_ranges_and_lists_of_nodes_are_the_same():
    text = write_genotype(PRESETS["darts-v2"])
    assert "normal_concat=range(2, 6)" in text
    assert read_genotype(text.replace("range(2, 6)", "[2, 3, 4, 5]")) == PRESETS["darts-v2"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Genotype(",
        "Genotype()",
        "[1, 2]",
        "__import__('os').system('true')",
        "Genotype(normal=__import__('os'), normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=[('skip_connect', 0)] * 2, normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=[('skip_connect', 0)], normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=[('skip_connect', 0), ('skip_connect', 2)], normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=[('skip_connect', 0, 1)], normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=[('skip_connect', True)], normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=1, normal_concat=range(999999999), reduce=[], reduce_concat=[2])",
        "Genotype(normal=[], normal_concat=[2], reduce=[], reduce_concat=[2], recurrent=[])",
        "Genotype([], [], [], [], [])",
        "(" * 400,
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(WeightsError):
        read_genotype(text)


def test_unknown_operations_and_presets_name_close_ones():
    with pytest.raises(UnknownNameError, match="did you mean 'sep_conv_3x3'"):
        Cell.of_pairs([("sep_conv_3x4", 0), ("skip_connect", 1)], [2])
    with pytest.raises(OfaKitError, match="did you mean 'darts-v2'"):
        find_genotype("darts-v3")


def test_a_cell_knows_its_unused_nodes_and_skips():
    cell = PRESETS["darts-v2"].normal
    assert cell.unused == (3, 4, 5)
    assert cell.skips == 2
    assert len(all_edges(4)) == 14


@pytest.mark.parametrize("concat", [[], [2, 2], [6], [1], [-1]])
def test_impossible_concatenations_are_refused(concat):
    with pytest.raises(WeightsError, match="joins nodes"):
        Cell.of_pairs(PRESETS["darts-v2"].normal.pairs, concat)
