"""Tokens and their numbers: how a text is cut into tokens, and which of them a vocabulary knows."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Level = Literal["word", "whitespace", "character"]
"""`word`: lower-case words, and punctuation apart; `whitespace`: what blanks divide, for prepared files (Penn Treebank,
WikiText); `character`: each character as it is."""
UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
_WORDS = re.compile(r"<unk>|\w+(?:['’]\w+)*|[^\w\s]")  # noqa: RUF001


def tokens_of(text: str, level: Level) -> list[str]:
    """Return the tokens of a text; but for characters, each line that holds any ends with <eos>."""
    if level == "character":
        return list(text)
    found: list[str] = []
    for line in text.splitlines():
        words = line.split() if level == "whitespace" else _WORDS.findall(line.lower())
        if words:
            found += [*words, END_OF_LINE]
    return found


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by number; number 0 is <unk>, which stands for all others."""

    tokens: tuple[str, ...]

    @classmethod
    def of(cls, tokens: Iterable[str], most: int) -> "Vocabulary":
        """Return the `most` most frequent tokens, <unk> among them, by frequency and then by name."""
        counts = Counter(tokens)
        counts.pop(UNKNOWN, None)
        ordered = sorted(counts, key=lambda token: (-counts[token], token))
        return cls((UNKNOWN, *ordered[: most - 1]))

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def encode(self, tokens: Sequence[str]) -> Tensor:
        """Return the numbers (N,) of tokens."""
        return torch.tensor([self._numbers.get(token, 0) for token in tokens], dtype=torch.int64)

    def decode(self, numbers: Tensor) -> list[str]:
        """Return the tokens of numbers (N,)."""
        return [self.tokens[number] for number in numbers.tolist()]
