"""probe-agent probes."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from probe_agent.presets import PRESETS
from probe_agent.probes import PROBES


def probes(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for a program instead of a table for a person.")
    ] = False,
    meaning: Annotated[bool, typer.Option("--meaning", help="Say in full what each quantity means.")] = False,
) -> None:
    """List the probes, the presets they are in, and the quantities they measure."""
    if as_json:
        print(msgspec.json.encode({probe.name: probe.quantities for probe in PROBES}).decode())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("probe", "from preset", "quantity"):
        table.add_column(heading, no_wrap=True)
    table.add_column("meaning")
    for probe in PROBES:
        for i, quantity in enumerate(probe.quantities):
            words = quantity.help if meaning else quantity.title
            table.add_row(*(("", "") if i else (probe.name, _least(probe.name))), quantity.name, words)
    Console().print(table)


def _least(probe: str) -> str:
    """The smallest preset the probe is in."""
    for name, preset in PRESETS.items():
        if any(each.name == probe for watch in preset() for each in watch.probes):
            return name
    return "by hand"
