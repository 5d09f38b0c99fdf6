"""Pictures of chains and trees: every connection is there, and no line runs over another or through a box."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from ofa_kit.nas.chain_picture import Box, draw_chain, lines_of
from ofa_kit.nas.enas.macro_arc import PRESETS as ARCS
from ofa_kit.nas.enas.macro_picture import save_macro_picture
from ofa_kit.nas.recurrent.tree import PRESETS as TREES
from ofa_kit.nas.recurrent.tree import from_tokens, token_sizes
from ofa_kit.nas.recurrent.tree_picture import LANE, SPACE, draw_tree, tree_places


@st.composite
def chains(draw):
    boxes = [Box("0")]
    for number in range(1, draw(st.integers(2, 12))):
        boxes.append(Box(str(number), draw(st.lists(st.integers(0, number - 1), unique=True))))
    return boxes


@settings(deadline=None)
@given(chains())
def test_every_long_connection_is_a_branch_of_one_line_and_lines_stay_apart(boxes):
    lines = lines_of(boxes)
    drawn = {(line.source, target) for line in lines for target in line.targets}
    assert drawn == {(read, number) for number, box in enumerate(boxes) for read in box.reads if read < number - 1}
    assert len({line.source for line in lines}) == len(lines)
    for one, other in itertools.combinations(lines, 2):
        if one.x == other.x:
            assert max(one.targets) <= other.source or max(other.targets) <= one.source


def test_branches_enter_a_box_at_different_heights():
    axes = Figure().add_subplot()
    draw_chain(axes, [Box(str(number), range(number)) for number in range(9)])
    ends = [tuple(round(value, 6) for value in text.xy) for text in axes.texts if text.get_text() == ""]
    assert len(ends) == len(set(ends)) == 9 * 8 / 2


def test_pictures_of_published_networks_are_written(tmp_path):
    svg, png = save_macro_picture(ARCS["enas-macro"], tmp_path)
    names = [layer.operation.replace("_", " ") for layer in ARCS["enas-macro"].layers]
    assert all(svg.read_text().count(f"  {name}") == names.count(name) for name in set(names))
    assert png.read_bytes()[:4] == b"\x89PNG"
    draw_tree(TREES["nas-cell"], tmp_path / "tree.png")
    assert (tmp_path / "tree.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("base", [1, 2, 5, 8])
def test_the_memorys_lines_run_between_the_columns_of_a_tree(base):
    """Boxes are 1.3 wide, so a line at LANE from the middle of one lies in the gap beside it."""
    tree = from_tokens([size - 1 for size in token_sizes(base)])
    columns = {SPACE * (1 + column) for column, _ in tree_places(tree)} | {0.0}
    for node in tree_places(tree):
        for side in (-1, 1):
            x = SPACE * (1 + node[0]) + side * LANE
            assert all(abs(x - column) > 0.65 for column in columns)
