import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_kit import storage
from ofa_kit.errors import OfaKitError, TableError

COLUMNS = ("key", "value")


def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next_append(tmp_path):
    path = tmp_path / "table.csv"
    storage.append_rows(path, COLUMNS, [{"key": "a", "value": 1}])
    with path.open("a") as file:
        file.write("b,2")
    assert [row["key"] for row in storage.read_rows(path, COLUMNS)] == ["a"]
    storage.append_rows(path, COLUMNS, [{"key": "c", "value": 3}])
    assert [row["key"] for row in storage.read_rows(path, COLUMNS)] == ["a", "c"]


@given(cut=st.integers(0, 60))
def test_any_prefix_of_a_table_reads_as_a_prefix_of_its_rows(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "table.csv"
    storage.append_rows(path, COLUMNS, [{"key": f"row{i}", "value": i} for i in range(6)])
    whole = [row["key"] for row in storage.read_rows(path, COLUMNS)]
    path.write_bytes(path.read_bytes()[:cut])
    kept = [row["key"] for row in storage.read_rows(path, COLUMNS)]
    assert kept == whole[: len(kept)]


def test_a_failed_replacement_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    storage.write_text(path, "old")
    with pytest.raises(RuntimeError), storage.replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_other_columns_and_damaged_lines_are_named(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("key,value\na,1\nb\n")
    with pytest.raises(TableError, match="line 3 is damaged"):
        storage.read_rows(path, COLUMNS)
    with pytest.raises(TableError, match="expected key,other"):
        storage.read_rows(path, ("key", "other"))


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OfaKitError, match="cannot write in folder"):
        storage.append_rows(tmp_path / "file" / "table.csv", COLUMNS, [])
