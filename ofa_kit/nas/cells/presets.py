"""The literature's genotypes, by name."""

from pathlib import Path

from ofa_kit.errors import UnknownNameError, WeightsError
from ofa_kit.nas.cells.arc import is_arc, read_arc
from ofa_kit.nas.cells.genotype import Cell, Genotype
from ofa_kit.nas.cells.text import read_genotype

INNER = range(2, 6)
PRESETS = {
    # Zoph et al. 2018
    "nasnet": Genotype(
        Cell.of_pairs(
            [
                ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 0), ("sep_conv_3x3", 0),
                ("avg_pool_3x3", 1), ("skip_connect", 0), ("avg_pool_3x3", 0), ("avg_pool_3x3", 0),
                ("sep_conv_3x3", 1), ("skip_connect", 1),
            ],
            [2, 3, 4, 5, 6],
        ),
        Cell.of_pairs(
            [
                ("sep_conv_5x5", 1), ("sep_conv_7x7", 0), ("max_pool_3x3", 1), ("sep_conv_7x7", 0),
                ("avg_pool_3x3", 1), ("sep_conv_5x5", 0), ("skip_connect", 3), ("avg_pool_3x3", 2),
                ("sep_conv_3x3", 2), ("max_pool_3x3", 1),
            ],
            [4, 5, 6],
        ),
    ),
    # Real et al. 2019
    "amoebanet": Genotype(
        Cell.of_pairs(
            [
                ("avg_pool_3x3", 0), ("max_pool_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 2),
                ("sep_conv_3x3", 0), ("avg_pool_3x3", 3), ("sep_conv_3x3", 1), ("skip_connect", 1),
                ("skip_connect", 0), ("avg_pool_3x3", 1),
            ],
            [4, 5, 6],
        ),
        Cell.of_pairs(
            [
                ("avg_pool_3x3", 0), ("sep_conv_3x3", 1), ("max_pool_3x3", 0), ("sep_conv_7x7", 2),
                ("sep_conv_7x7", 0), ("avg_pool_3x3", 1), ("max_pool_3x3", 0), ("max_pool_3x3", 1),
                ("conv_7x1_1x7", 0), ("sep_conv_3x3", 5),
            ],
            [3, 4, 6],
        ),
    ),
    # Liu et al. 2019, first order
    "darts-v1": Genotype(
        Cell.of_pairs(
            [
                ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1),
                ("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2),
            ],
            INNER,
        ),
        Cell.of_pairs(
            [
                ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
                ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("avg_pool_3x3", 0),
            ],
            INNER,
        ),
    ),
    # Liu et al. 2019, second order
    "darts-v2": Genotype(
        Cell.of_pairs(
            [
                ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
                ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2),
            ],
            INNER,
        ),
        Cell.of_pairs(
            [
                ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
                ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1),
            ],
            INNER,
        ),
    ),
    # Xu et al. 2020, searched on CIFAR-10
    "pc-darts-cifar": Genotype(
        Cell.of_pairs(
            [
                ("sep_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
                ("sep_conv_5x5", 0), ("sep_conv_3x3", 1), ("avg_pool_3x3", 0), ("dil_conv_3x3", 1),
            ],
            INNER,
        ),
        Cell.of_pairs(
            [
                ("sep_conv_5x5", 1), ("max_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_5x5", 2),
                ("sep_conv_3x3", 0), ("sep_conv_3x3", 3), ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
            ],
            INNER,
        ),
    ),
    # Xu et al. 2020, searched on ImageNet
    "pc-darts-imagenet": Genotype(
        Cell.of_pairs(
            [
                ("skip_connect", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 0), ("skip_connect", 1),
                ("sep_conv_3x3", 1), ("sep_conv_3x3", 3), ("sep_conv_3x3", 1), ("dil_conv_5x5", 4),
            ],
            INNER,
        ),
        Cell.of_pairs(
            [
                ("sep_conv_3x3", 0), ("skip_connect", 1), ("dil_conv_5x5", 2), ("max_pool_3x3", 1),
                ("sep_conv_3x3", 2), ("sep_conv_3x3", 1), ("sep_conv_5x5", 0), ("sep_conv_3x3", 3),
            ],
            INNER,
        ),
    ),
    # Pham et al. 2018: the arc of the authors' script for the final network
    "enas-micro": read_arc(
        "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 "
        "1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
    ),
}  # fmt: skip


def find_genotype(text: str) -> Genotype:
    """Return the genotype that a preset's name, a file with a text form, or the text itself means."""
    if text in PRESETS:
        return PRESETS[text]
    if "(" in text or is_arc(text):
        return _read(text)
    path = Path(text)
    if not path.is_file():
        raise UnknownNameError("genotype", text, [*PRESETS, "FILE", "Genotype(...)"])
    try:
        return _read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from error


def _read(text: str) -> Genotype:
    return read_arc(text) if is_arc(text) else read_genotype(text)
