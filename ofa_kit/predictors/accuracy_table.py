"""AccuracyTable: measured top-1 of subnets of one trained supernet, in runs/NAME/accuracy.csv; it only grows."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS, ArchConfig
from ofa_kit.errors import TableError

FIRST_COLUMNS = ("key", *ARCH_COLUMNS, "top1", "images", "calibration_images", "weights_hash", "measured_at")
"""The columns of the first versions, which measured in PyTorch on all validation images."""
COLUMNS = (*FIRST_COLUMNS, "validation_images", "standard_error", "measured_by")


@dataclass(frozen=True)
class AccuracyRow:
    """One measured subnet."""

    arch: ArchConfig
    top1: float
    """Percent."""
    images: int
    """Validation images it was measured on."""
    validation_images: int
    """How many there are."""

    def covers(self, images: int) -> bool:
        """Return whether it was measured on at least so many images; 0 = all."""
        return self.images >= min(images or self.validation_images, self.validation_images)

    @property
    def standard_error(self) -> float:
        """Sampling error of top-1 in points: that of a share of independent images."""
        share = self.top1 / 100
        return 100 * math.sqrt(share * (1 - share) / self.images)


@dataclass
class AccuracyTable:
    """Rows of the current weights by architecture key, in the order in which they were measured."""

    path: Path
    weights_hash: str
    measured: dict[str, AccuracyRow] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, weights_hash: str) -> "AccuracyTable":
        """Read the rows that were measured with these weights; rows of other weights stay in the file, unused."""
        table = cls(path, weights_hash)
        for row in storage.read_rows(path, _columns_of(path)):
            if row["weights_hash"] == weights_hash:
                table._take(_parsed(path, row))
        return table

    @property
    def rows(self) -> dict[str, tuple[ArchConfig, float]]:
        """What predictors learn from: (arch, top-1 in percent) by architecture key."""
        return {key: (row.arch, row.top1) for key, row in self.measured.items()}

    def measured_on(self, images: int) -> list[tuple[ArchConfig, float]]:
        """Return (arch, top-1 in percent) of those measured on at least so many images (0 = all), in their order."""
        return [(row.arch, row.top1) for row in self.measured.values() if row.covers(images)]

    def add(
        self,
        arch: ArchConfig,
        top1: float,
        *,
        images: int,
        calibration_images: int,
        measured_at: str,
        validation_images: int = 0,
        measured_by: str = "pytorch",
    ) -> None:
        """Append one row; an architecture that was measured on as many images already stays as it was.

        `validation_images` says how many there are; 0 = the ones it was measured on are all.
        """
        found = AccuracyRow(arch, round(top1, 4), images, validation_images or images)  # what will be read again
        if not self._is_new(found):
            return
        row: dict[str, object] = {
            "key": arch.key,
            **arch.to_row(),
            "top1": f"{found.top1:.4f}",
            "images": images,
            "calibration_images": calibration_images,
            "weights_hash": self.weights_hash,
            "measured_at": measured_at,
            "validation_images": found.validation_images,
            "standard_error": f"{found.standard_error:.4f}",
            "measured_by": measured_by,
        }
        if _columns_of(self.path) == FIRST_COLUMNS:
            _widen(self.path)
        storage.append_rows(self.path, COLUMNS, [row])
        self._take(found)

    def _is_new(self, row: AccuracyRow) -> bool:
        known = self.measured.get(row.arch.key)
        return known is None or known.images < row.images

    def _take(self, row: AccuracyRow) -> None:
        """Keep a row unless there is one on as many images."""
        if self._is_new(row):
            self.measured.pop(row.arch.key, None)  # a row on more images stands where it was measured
            self.measured[row.arch.key] = row


def _columns_of(path: Path) -> tuple[str, ...]:
    """Return the columns that the file has to have: those of the first versions where it begins with these."""
    if not path.exists():
        return COLUMNS
    with path.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    return FIRST_COLUMNS if tuple(header) == FIRST_COLUMNS else COLUMNS


def _widen(path: Path) -> None:
    """Give the rows of a first version's file today's columns, in one step; what is written in them stays."""
    rows = storage.read_rows(path, FIRST_COLUMNS)
    errors = [f"{_parsed(path, row).standard_error:.4f}" for row in rows]
    wider = [
        row | {"validation_images": row["images"], "standard_error": error, "measured_by": "pytorch"}
        for row, error in zip(rows, errors, strict=True)
    ]
    storage.keep_rows(path, COLUMNS, wider)


def _parsed(path: Path, row: Mapping[str, str]) -> AccuracyRow:
    """Read the fields of a row; a TableError names the one that is damaged."""
    try:
        top1, images, of = float(row["top1"]), int(row["images"]), int(row.get("validation_images", row["images"]))
        if not 0 <= top1 <= 100 or not 1 <= images <= of:
            raise ValueError(f"top1 {row['top1']} on {images} of {of} images")
        return AccuracyRow(ArchConfig.from_row(row), top1, images, of)
    except ValueError as error:
        raise TableError(f"'{path}' has a damaged row {row['key']}: {error}") from error
