"""Language models in files: the weights, and in the header the cell and how well it did."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ofa_kit.errors import RunError
from ofa_kit.nas.recurrent.cell import GenotypeCell, LstmCell, RecurrentCell
from ofa_kit.nas.recurrent.genotype import read_genotype, write_genotype
from ofa_kit.nas.recurrent.language_model import LanguageModel
from ofa_kit.training import checkpoint

LSTM = "lstm"


def save_language_model(path: Path, model: LanguageModel, facts: Mapping[str, Any]) -> None:
    """Write a trained model in one step; `facts` go into the header."""
    cell = model.cell
    name = write_genotype(cell.genotype) if isinstance(cell, GenotypeCell) else LSTM
    shape = {"cell": name, "hidden": cell.hidden, "words": model.words}
    checkpoint.save(path, model.state_dict(), {**facts, **shape})


def load_language_model(path: Path) -> tuple[LanguageModel, dict[str, Any]]:
    """Return a model and its facts; a RunError when the file is missing, damaged or something else."""
    tensors, facts = checkpoint.load(path)
    try:
        generator, hidden = torch.Generator(), int(facts["hidden"])
        cell: RecurrentCell
        if facts["cell"] == LSTM:
            cell = LstmCell(hidden, generator)
        else:
            cell = GenotypeCell(read_genotype(facts["cell"]), hidden, generator)
        model = LanguageModel(cell, int(facts["words"]), generator)
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"'{path}' holds no language model: {' '.join(str(error).split())}") from error
    return model, facts
