"""probe-agent probes."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from probe_agent.needs import Need
from probe_agent.presets import PRESETS
from probe_agent.probe import Probe
from probe_agent.probes import PROBES


def probes(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON for a program instead of a table for a person.")
    ] = False,
    meaning: Annotated[bool, typer.Option("--meaning", help="Say in full what each quantity means.")] = False,
) -> None:
    """List the probes, the presets they are in, the quantities they measure, and what they need."""
    if as_json:
        print(msgspec.json.encode({probe.name: _for_programs(probe) for probe in PROBES}).decode())
        return
    console = Console()
    console.print(_quantities(meaning=meaning))
    console.print()
    console.print(_needs())
    console.print("\nWhat a probe needs it cannot do without; what it [dim]uses[/] gives it more to measure.")
    console.print("`probe-agent doctor -- python train.py` tells what a job of yours has.")


def _for_programs(probe: type[Probe]) -> dict[str, object]:
    return {
        "preset": _least(probe.name),
        "needs": [need.label for need in Need if need in probe.needs],
        "uses": [need.label for need in Need if need in probe.uses],
        "quantities": probe.quantities,
    }


def _quantities(*, meaning: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("probe", "from preset", "quantity"):
        table.add_column(heading, no_wrap=True)
    table.add_column("meaning")
    for probe in PROBES:
        for i, quantity in enumerate(probe.quantities):
            words = quantity.help if meaning else quantity.title
            table.add_row(*(("", "") if i else (probe.name, _least(probe.name))), quantity.name, words)
    return table


def _needs() -> Table:
    """Each need, what it is, and who has it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("need", no_wrap=True)
    table.add_column("what it is")
    table.add_column("probes")
    for need in Need:
        needing = [probe.name for probe in PROBES if need in probe.needs]
        using = [f"[dim]{probe.name}[/]" for probe in PROBES if need in probe.uses]
        table.add_row(need.label, need.sentence, ", ".join(needing + using))
    return table


def _least(probe: str) -> str:
    """The smallest preset the probe is in."""
    for name, preset in PRESETS.items():
        if any(each.name == probe for watch in preset() for each in watch.probes):
            return name
    return "by hand"
