"""probe-agent doctor."""

import json
import math
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from probe_agent.cli.running import run
from probe_agent.examination import AFTER_STEPS, VARIABLE
from probe_agent.model_job import TARGET
from probe_agent.presets import PRESETS
from probe_agent.schedule import Watch, frequency

SHARES = (0.01, 0.02)
"""Of training time: what is shown."""

LATE = 10**7
"""A step by which every schedule has come to its widest spacing."""

COLOURS = {"ok": "green", "not applicable": "dim", "not converged": "yellow"}


def doctor(
    command: Annotated[
        list[str],
        typer.Argument(
            help="The training command, after --, such as: python train.py. Or a model: PACKAGE.MODULE:FUNCTION"
        ),
    ],
    timeout: Annotated[float, typer.Option(help="Seconds it may take.", min=1)] = 900,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
) -> None:
    """Try every probe once on a training script or a model: which apply, which do not and why, and what they cost.

    The script must call probe_agent.attach(...). It is ended after its second optimizer step, when every probe has
    been tried once on the model as it is then, whatever the budget says. A model without a script is named as
    PACKAGE.MODULE:FUNCTION; the function gives what attach() takes, as a dict or as (model, loss_fn, probe_batch).
    """
    if len(command) == 1 and re.fullmatch(TARGET, command[0]):
        command = [sys.executable, "-m", "probe_agent.model_job", command[0]]
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "examination.json"
        with console.status("Trying every probe …"):
            said = run(command, {VARIABLE: str(file)}, timeout)
        if said or not file.exists():
            why = said or (
                f"it never called probe_agent.attach(...), or took fewer than {AFTER_STEPS} optimizer steps. Of an optimizer that has "
                "another one take its steps those are not seen: attach to the one inside."
            )
            console.print(f"[red]The command failed:[/red] {escape(why)}", highlight=False)
            raise typer.Exit(2)
        found = json.loads(file.read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    told(found, console)
    console.print()
    console.print(_presets(found))
    console.print(
        "\nOf the dearest probe of the row, late in a run. Early on schedules are dense, and some seconds are advanced.",
        style="dim",
    )


def told(found: dict[str, Any], console: Console) -> None:
    """Print what came of each probe, and below that, where there is room for it, why not."""
    console.print(_probes(found))
    for probes, why in _reasons(found).items():
        console.print(f"\n[bold]{', '.join(probes)}[/]", highlight=False)
        console.print(Padding(escape(why), (0, 0, 0, 2)), highlight=False)


def _probes(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("probe", "outcome", "series"):
        table.add_column(heading, no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    for each in found["probes"]:
        series, outcome = each["series"], each["outcome"].replace("_", " ")
        well = f"{series.get('ok', 0)} of {sum(series.values())}"
        colour = COLOURS.get(outcome, "red")
        table.add_row(
            each["probe"],
            f"[{colour}]{outcome}[/]",
            well,
            f"{each['seconds']:.3g}",
            f"{each['memory_raised'] / 1e6:.0f}",
        )
    return table


def _reasons(found: dict[str, Any]) -> dict[tuple[str, ...], str]:
    """The probes that did not come out well, by why not, and the reason."""
    probes: dict[str, list[str]] = {}
    for each in found["probes"]:
        if each["outcome"] != "ok":
            probes.setdefault(each["why"], []).append(each["probe"])
    return {tuple(names): why for why, names in probes.items()}


def _presets(found: dict[str, Any]) -> Table:
    """What each watch of each preset costs, and how often it is measured in the long run when a share of training is paid for it."""
    seconds = {each["probe"]: each["seconds"] for each in found["probes"]}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("preset", "probes"):
        table.add_column(heading, no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for share in SHARES:
        table.add_column(f"measured every … steps or more often, at {share:.0%}", justify="right")
    for name, preset in PRESETS.items():
        watches = preset()
        asked = [
            (seconds[probe.name], _spacing(watch), frequency(watch.schedule))
            for watch in watches
            for probe in watch.probes
        ]
        often = [iter(at_least_every(asked, share * found["step_seconds"])) for share in SHARES]
        for i, watch in enumerate(watches):
            costs = [seconds[probe.name] for probe in watch.probes]
            dearest = watch.probes[costs.index(max(costs))].name
            probes = dearest if len(costs) == 1 else f"{dearest} and {len(costs) - 1} cheaper"
            apart = [max(next(each) for _ in costs) for each in often]
            table.add_row("" if i else name, probes, f"{sum(costs):.3g}", *(f"{math.ceil(steps):,}" for steps in apart))
    return table


def _spacing(watch: Watch) -> int:
    """Steps between measurements that the schedule asks for, late in a run."""
    return watch.schedule.after(LATE) - LATE


def at_least_every(asked: Sequence[tuple[float, float, float]], paid: float) -> list[float]:
    """Steps within which each probe is measured in the long run, when ``paid`` seconds a step are for all of them.

    ``asked`` has the seconds of each, the steps between that its schedule asks for, and its weight. Each has its part of what is
    paid by that, or all it asks for: the rule of `probe_agent.budget.affordable`. What the modest leave makes the others more frequent.
    """
    whole = sum(weight for *_, weight in asked)
    return [max(steps, seconds * whole / weight / paid) for seconds, steps, weight in asked]
