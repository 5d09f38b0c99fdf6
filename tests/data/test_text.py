"""Texts: three parts by position, nothing lost, nothing out of order, and errors that say what to do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_kit.data.text import open_text
from ofa_kit.data.text_batches import IGNORED, columns, fixed_segments, segments
from ofa_kit.data.text_vocabulary import END_OF_LINE, UNKNOWN, Vocabulary, tokens_of
from ofa_kit.errors import DataError, UnknownNameError


@pytest.mark.parametrize("level", ["word", "whitespace", "character"])
def test_parts_lie_one_after_the_other_and_make_up_the_text(level, tmp_path):
    words = [f"w{n}" for n in range(400)]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(" ".join(words[start : start + 10]) for start in range(0, 400, 10)), encoding="utf-8")
    tokens = tokens_of(path.read_text(), level)
    found = open_text(f"text:{path}", level=level)
    parts = [found.train, found.validation, found.test]
    assert sum(map(len, parts)) == len(tokens)
    assert found.vocabulary.decode(found.train) == tokens[: len(found.train)]
    known = set(tokens[: len(found.train)])
    for part, start in zip(parts[1:], (len(parts[0]), len(parts[0]) + len(parts[1])), strict=True):
        expected = [token if token in known else UNKNOWN for token in tokens[start : start + len(part)]]
        assert found.vocabulary.decode(part) == expected


def test_words_are_lower_case_with_punctuation_apart_and_lines_end():
    assert tokens_of("Love's not Time's fool,\n\n<unk> is!\n", "word") == [
        "love's", "not", "time's", "fool", ",", END_OF_LINE, UNKNOWN, "is", "!", END_OF_LINE
    ]  # fmt: skip
    assert tokens_of(" it is n't N \n", "whitespace") == ["it", "is", "n't", "N", END_OF_LINE]
    assert tokens_of("a b\n", "character") == ["a", " ", "b", "\n"]


def test_a_vocabulary_keeps_the_most_frequent_and_knows_the_rest_as_unknown():
    vocabulary = Vocabulary.of(["b", "a", "a", "c", "a", "b", "d"], most=3)
    assert vocabulary.tokens == (UNKNOWN, "a", "b")
    assert vocabulary.encode(["b", "d", "a"]).tolist() == [2, 0, 1]


def test_a_folder_has_one_file_for_each_part(tmp_path):
    for name, word in (("ptb.train.txt", "a"), ("ptb.valid.txt", "b"), ("ptb.test.txt", "a")):
        (tmp_path / name).write_text(f"{word} " * 40)
    found = open_text(f"text:{tmp_path}", level="whitespace")
    assert found.info.words == 3
    assert found.unknown_share(found.validation) == pytest.approx(40 / 41)
    (tmp_path / "other.test.txt").write_text("a")
    with pytest.raises(DataError, match=r"'test' in it, found other.test.txt, ptb.test.txt"):
        open_text(f"text:{tmp_path}")


def test_the_same_text_has_the_same_hash_and_another_one_has_not(tmp_path):
    path = tmp_path / "a.txt"
    hashes = []
    for text in ("one two three four " * 40, "one two three four " * 40, "one two four three " * 40):
        path.write_text(text)
        hashes.append(open_text(f"text:{path}").info.content)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"caf\xe9 " * 40, "not UTF-8 text: byte 3 is 0xe9"),
        (b"too short", "has 3 tokens, at least 30"),
    ],
)
def test_what_is_no_text_is_named(content, message, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_text(f"text:{path}")


def test_missing_texts_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'sonnets'"):
        open_text("sonets")
    with pytest.raises(DataError, match=r"cannot read '/no/such.txt'"):
        open_text("text:/no/such.txt")
    with pytest.raises(DataError, match="needs a file or a folder"):
        open_text("text:")


@settings(deadline=None)
@given(st.integers(2, 400), st.integers(1, 12))
def test_columns_predict_each_token_but_the_first_exactly_once_and_in_order(count, batch):
    tokens = torch.arange(count)
    if count - 1 < batch or -(-(count - 1) // batch) * (batch - 1) >= count - 1:
        with pytest.raises(DataError, match="too few for a batch"):
            columns(tokens, batch)
        return
    found = columns(tokens, batch)
    known = found.targets != IGNORED
    assert torch.equal(found.targets.t()[known.t()], tokens[1:])
    assert torch.equal(found.inputs.t()[known.t()], tokens[:-1])
    assert found.predictions == count - 1


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 40), st.sampled_from([0.0, 5.0]), st.integers(0, 5))
def test_segments_cover_all_rows_in_order_and_depend_on_the_seed_alone(rows, bptt, deviation, seed):
    found = segments(rows, bptt, np.random.default_rng(seed), deviation=deviation)
    assert [segment.start for segment in found] == np.cumsum([0, *(s.length for s in found[:-1])]).tolist()
    assert sum(segment.length for segment in found) == rows
    assert [segment.number for segment in found] == list(range(len(found)))
    assert all(1 <= segment.length <= bptt + 20 for segment in found)
    assert found == segments(rows, bptt, np.random.default_rng(seed), deviation=deviation)
    assert sum(segment.length for segment in fixed_segments(rows, bptt)) == rows


def test_segments_read_the_columns_from_top_to_bottom():
    found = columns(open_text("sonnets").train, 7)
    read = [segment.of(found) for segment in segments(found.rows, 9, np.random.default_rng(0), deviation=5)]
    assert torch.equal(torch.cat([inputs for inputs, _ in read]), found.inputs)
    assert torch.equal(torch.cat([targets for _, targets in read]), found.targets)
