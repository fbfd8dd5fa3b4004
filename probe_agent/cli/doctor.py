"""probe-agent doctor."""

import json
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from probe_agent.budget import Budget
from probe_agent.cli.running import run
from probe_agent.examination import AFTER_STEPS, VARIABLE
from probe_agent.presets import PRESETS

COLOURS = {"ok": "green", "not applicable": "dim", "not converged": "yellow"}


def doctor(
    command: Annotated[list[str], typer.Argument(help="The training command, after --, such as: python train.py")],
    timeout: Annotated[float, typer.Option(help="Seconds it may take.", min=1)] = 900,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
) -> None:
    """Try every probe once on a training script: which apply, which do not and why, and what they cost.

    The script must call probe_agent.attach(...). It is ended after its second optimizer step, when every probe has
    been tried once on the model as it is then, whatever the budget says.
    """
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "examination.json"
        with console.status("Trying every probe …"):
            said = run(command, {VARIABLE: str(file)}, timeout)
        if said or not file.exists():
            why = said or f"it never called probe_agent.attach(...), or took fewer than {AFTER_STEPS} optimizer steps."
            console.print(f"[red]The command failed:[/red] {why}", highlight=False)
            raise typer.Exit(2)
        found = json.loads(file.read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console.print(_probes(found))
    console.print(_presets(found))


def _probes(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("probe", "outcome", "series"):
        table.add_column(heading, no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("why")
    for each in found["probes"]:
        series, outcome = each["series"], each["outcome"].replace("_", " ")
        well = f"{series.get('ok', 0)} of {sum(series.values())}"
        colour = COLOURS.get(outcome, "red")
        why = "" if outcome == "ok" else each["why"]
        table.add_row(each["probe"], f"[{colour}]{outcome}[/]", well, f"{each['seconds']:.3g}", why)
    return table


def _presets(found: dict[str, Any]) -> Table:
    """What each preset costs, and how often its whole set is measured within the default budget."""
    seconds = {each["probe"]: each["seconds"] for each in found["probes"]}
    share = Budget().share
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("preset", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column(f"steps between measurements at {share:.0%}", justify="right")
    for name, preset in PRESETS.items():
        cost = sum(seconds[probe.name] for watch in preset() for probe in watch.probes)
        table.add_row(name, f"{cost:.3g}", f"{math.ceil(cost / share / found['step_seconds']):,}")
    return table
