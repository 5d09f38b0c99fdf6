"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RunOption = Annotated[str | None, typer.Option("--run", help="Run name or folder; default: the newest trained run.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Device profile: a name or a YAML file.")]
TablesOption = Annotated[Path, typer.Option("--tables", help="Folder of the latency tables.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
TABLES = Path("latency_tables")
