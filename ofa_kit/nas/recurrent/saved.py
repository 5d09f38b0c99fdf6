"""Language models in files: the weights, and in the header the cell and how well it did."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ofa_kit.errors import RunError
from ofa_kit.nas.recurrent.any_cell import FoundCell, make_language_model, read_cell, write_cell
from ofa_kit.nas.recurrent.cell import LstmCell
from ofa_kit.nas.recurrent.language_model import LanguageModel
from ofa_kit.training import checkpoint

LSTM = "lstm"


def save_language_model(path: Path, model: LanguageModel, facts: Mapping[str, Any]) -> None:
    """Write a trained model in one step; `facts` go into the header."""
    cell = model.cell
    name = write_cell(cell.genotype) if isinstance(cell, FoundCell) else LSTM
    shape = {"cell": name, "hidden": cell.hidden, "words": model.words}
    checkpoint.save(path, model.state_dict(), {**facts, **shape})


def load_language_model(path: Path) -> tuple[LanguageModel, dict[str, Any]]:
    """Return a model and its facts; a RunError when the file is missing, damaged or something else."""
    tensors, facts = checkpoint.load(path)
    try:
        generator, hidden = torch.Generator(), int(facts["hidden"])
        words = int(facts["words"])
        if facts["cell"] == LSTM:
            model = LanguageModel(LstmCell(hidden, generator), words, generator)
        else:
            model = make_language_model(read_cell(facts["cell"]), hidden, words, generator)
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"'{path}' holds no language model: {' '.join(str(error).split())}") from error
    return model, facts
