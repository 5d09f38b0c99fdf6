"""The command group `table`: the joined table of a run, and latency tables side by side; main.py registers it."""

from pathlib import Path
from typing import Annotated

import typer

from ofa_kit.cli.options import TABLES, DeviceOption, JsonOption, RunOption, TablesOption
from ofa_kit.cli.show import open_run, show

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def table(
    context: typer.Context,
    run: RunOption = None,
    device: DeviceOption = "cpu-ort",
    where: Annotated[
        list[str] | None, typer.Option(help="Only rows such as 'latency_ms_predicted<20'; repeat for more.")
    ] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Only the Pareto front of the whole table.")] = False,
    sort: Annotated[str | None, typer.Option(help="Order by a column; -COLUMN: largest first.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first rows.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write all columns to a .csv or .parquet file.")] = None,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Show [D, W, K, R] -> [accuracy, latency] of subnets.

    Measured subnets, predicted beside measured.
    """
    if context.invoked_subcommand is not None:
        return
    from ofa_kit.commands.table import joined_table, refuse_format, screen_columns, select, write_table
    from ofa_kit.latency.device import DeviceProfile

    if out is not None:
        refuse_format(out)
    joined = joined_table(open_run(run), DeviceProfile.load(device), tables=tables)
    frame = select(joined.frame, where=where or (), sort=sort, pareto=pareto, limit=limit)
    for line in joined.missing:
        typer.echo(line, err=True)
    if out is not None:
        write_table(frame, out)
        typer.echo(f"{out}: {len(frame)} of {len(joined.frame)} rows")
    elif as_json:
        typer.echo(frame.to_json(orient="records", indent=2))
    elif frame.empty:
        typer.echo(f"none of {len(joined.frame)} rows is left")
    else:
        shown = frame[screen_columns(frame)]
        typer.echo(shown.to_string(index=False, float_format=lambda x: f"{x:.4g}", na_rep="-"))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Latency table (.csv).")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another of the same space.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two latency tables of one space.

    Says what differs around them, and how far their rows agree.
    """
    from ofa_kit.commands.compare_tables import compare_tables

    found = compare_tables(a, b)
    text = [f"{name}: {first} | {second}" for name, (first, second) in found.differences.items()]
    for rows in found.agreements:
        text.append(
            f"{rows.rows} {rows.kind}s in common (only A {rows.only_a}, only B {rows.only_b}), measured: "
            f"B / A {rows.ratio:.3f} (median), differ by {rows.median_difference:.2f} % (median; "
            f"{rows.without_ratio:.2f} % without that ratio, which calibration takes out) "
            f"and {rows.largest_difference:.1f} % (largest), within 5 % {100 * rows.within_5:.0f} %, "
            f"Kendall tau {rows.tau:.3f}"
        )
    show(found.to_dict(), text, as_json)


@app.command("import")
def import_tables(
    files: Annotated[list[Path], typer.Argument(help="MIT's *_lookup_table.yaml, one a resolution.")],
    device: Annotated[str, typer.Option(help="Name of the device that they are of, such as note10.")],
    space: Annotated[str, typer.Option(help="Space that they are of.")] = "ofa-mbv3-w1.2",
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Import latency tables of MIT's once-for-all.

    What they say of a subnet is kept exactly: the sum of its blocks.
    """
    from ofa_kit.arch.space_file import find_space
    from ofa_kit.latency.foreign import import_mit_tables

    table = import_mit_tables(files, tables, device, find_space(space))
    values = {"table": str(table.path), "blocks": len(table.blocks), "device": device, "space": space}
    show(values, [f"table: {table.path} ({len(table.blocks)} blocks, imported, not calibrated)"], as_json)
