"""AccuracyTable: measured top-1 of subnets of one trained supernet, in runs/NAME/accuracy.csv; it only grows."""

from dataclasses import dataclass, field
from pathlib import Path

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS, ArchConfig
from ofa_kit.errors import TableError

COLUMNS = ("key", *ARCH_COLUMNS, "top1", "images", "calibration_images", "weights_hash", "measured_at")


@dataclass
class AccuracyTable:
    """Rows of the current weights: (arch, top-1 in percent) by architecture key."""

    path: Path
    weights_hash: str
    rows: dict[str, tuple[ArchConfig, float]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, weights_hash: str) -> "AccuracyTable":
        """Read the rows that were measured with these weights; rows of other weights stay in the file, unused."""
        table = cls(path, weights_hash)
        for row in storage.read_rows(path, COLUMNS):
            if row["weights_hash"] == weights_hash:
                try:
                    if not 0 <= float(row["top1"]) <= 100:
                        raise ValueError(f"top1 {row['top1']}")
                    table.rows[row["key"]] = (ArchConfig.from_row(row), float(row["top1"]))
                except ValueError as error:
                    raise TableError(f"'{path}' has a damaged row {row['key']}: {error}") from error
        return table

    def add(self, arch: ArchConfig, top1: float, *, images: int, calibration_images: int, measured_at: str) -> None:
        """Append one row; an architecture that is there already stays as it was."""
        if arch.key in self.rows:
            return
        row: dict[str, object] = {
            "key": arch.key,
            **arch.to_row(),
            "top1": f"{top1:.4f}",
            "images": images,
            "calibration_images": calibration_images,
            "weights_hash": self.weights_hash,
            "measured_at": measured_at,
        }
        storage.append_rows(self.path, COLUMNS, [row])
        self.rows[arch.key] = (arch, top1)
