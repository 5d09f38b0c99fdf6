"""children.csv: one row for each child, added as soon as it is known what the child was worth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ofa_kit import storage
from ofa_kit.errors import OfaKitError, TableError
from ofa_kit.nas.nas_rl.conv_net import ConvNet
from ofa_kit.nas.nas_rl.text import read_conv_net

COLUMNS = (
    "round",
    "number",
    "key",
    "text",
    "top1",
    "reward",
    "latency_ms",
    "params",
    "macs",
    "seconds",
    "error",
)


@dataclass(frozen=True, kw_only=True)
class Child:
    """What is known of one child."""

    round: int
    number: int
    """Both are counted from 1, children through all rounds."""
    key: str
    text: str
    top1: float | None
    """Percent of the held-out images, measured; None where it was not trained or failed."""
    reward: float
    latency_ms: float | None
    """Measured; None without a device."""
    params: int
    macs: int
    seconds: float
    """Time of its training; 0 where an equal child was trained before."""
    error: str = ""
    """Why it failed."""

    @property
    def net(self) -> ConvNet:
        return read_conv_net(self.text)

    def to_row(self) -> dict[str, object]:
        """Return the columns of its row."""
        return {key: "" if value is None else value for key, value in asdict(self).items()}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> "Child":
        """Return the child of a row; a ValueError or OfaKitError where it is damaged."""
        found = cls(
            round=int(row["round"]),
            number=int(row["number"]),
            key=row["key"],
            text=row["text"],
            top1=float(row["top1"]) if row["top1"] else None,
            reward=float(row["reward"]),
            latency_ms=float(row["latency_ms"]) if row["latency_ms"] else None,
            params=int(row["params"]),
            macs=int(row["macs"]),
            seconds=float(row["seconds"]),
            error=row["error"],
        )
        if found.net.key != found.key:
            raise ValueError(f"key {found.key} is not that of its text")
        return found


class Children:
    """The table of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: dict[int, Child] = {}
        for line, row in enumerate(storage.read_rows(path, COLUMNS), start=2):
            try:
                child = Child.from_row(row)
            except (ValueError, OfaKitError) as error:
                raise TableError(f"'{path}' line {line} is damaged: {error}; delete that line") from error
            self.all[child.number] = child

    def add(self, children: Sequence[Child]) -> None:
        """Append rows."""
        storage.append_rows(self.path, COLUMNS, [child.to_row() for child in children])
        self.all |= {child.number: child for child in children}

    def trained(self, key: str) -> Child | None:
        """Return a child with this network that was trained to its end."""
        return next((child for child in self.all.values() if child.key == key and child.top1 is not None), None)

    def of_round(self, number: int) -> list[Child]:
        """Return the children of a round, in order."""
        return sorted((child for child in self.all.values() if child.round == number), key=lambda child: child.number)

    def best(self) -> Child | None:
        """Return the trained child with the highest reward, the first of equal ones; None where none has any."""
        return best_of(self.all.values())


def best_of(children: Iterable[Child]) -> Child | None:
    """Return the trained child with the highest reward, the first of equal ones."""
    judged = (child for child in children if child.top1 is not None)
    return max(judged, key=lambda child: (child.reward, -child.number), default=None)
