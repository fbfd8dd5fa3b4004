"""probe-agent probes."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from probe_agent.probes import PROBES


def probes(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for a program instead of a table for a person.")
    ] = False,
) -> None:
    """List the probes and the quantities they measure."""
    if as_json:
        print(msgspec.json.encode({probe.name: probe.quantities for probe in PROBES}).decode())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("probe", "quantity", "unit"):
        table.add_column(heading, no_wrap=True)
    table.add_column("meaning")
    for probe in PROBES:
        for i, quantity in enumerate(probe.quantities):
            table.add_row("" if i else probe.name, quantity.name, quantity.unit, quantity.help)
    Console().print(table)
