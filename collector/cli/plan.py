"""probe-collector plan."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from collector.cli.options import AsJson, ConfigFile, StorePath, configured
from collector.cli.transitions import find_run
from collector.errors import CollectorError
from collector.phases import planner
from collector.phases.planner import Cadence, Plan
from collector.store.queries import Reader
from probe_wire import Outcome

Noise = Annotated[float | None, typer.Option("--noise", help="Noise of one probe over the height of the peak: 0.1.")]
Every = Annotated[float | None, typer.Option("--every", help="Optimizer steps from one probe to the next.")]
Rise = Annotated[float | None, typer.Option("--rise", help="Steps from a tenth of the rise to the peak.")]
Decline = Annotated[
    float, typer.Option("--decline", help="Share of its height that the peak has lost one rise time later.")
]
OfRun = Annotated[str | None, typer.Option("--run", help="A stored run, by id or name, to take them from.")]
Quantity = Annotated[str, typer.Option("--quantity", help="The quantity of that run, of the whole network.")]

IF = (
    ("as it is", 1.0, 1.0),
    ("4 times the samples a probe", 0.5, 1.0),
    ("a quarter of the noise", 0.25, 1.0),
    ("4 times as many probes", 1.0, 4.0),
)
"""What could be changed: in words, times the noise of a probe, times the probes."""


def plan(
    noise: Noise = None,
    every: Every = None,
    rise: Rise = None,
    decline: Decline = planner.DECLINE,
    run: OfRun = None,
    quantity: Quantity = "fisher_trace",
    config: ConfigFile = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Tell in advance how long after a peak it can be known, and what less noise or more probes would buy."""
    if run is not None:
        settings, _ = configured(config, store)
        found = _measured(Reader(Path(settings.store.path)), run, quantity)
        noise = found.noise if noise is None else noise
        every = found.every_steps if every is None else every
        rise = found.rise_steps if rise is None else rise
    lacking = [name for name, value in (("--noise", noise), ("--every", every), ("--rise", rise)) if value is None]
    if lacking or noise is None or every is None or rise is None:
        raise CollectorError(f"Got no {', no '.join(lacking)}; give it, or a --run in which a peak can be seen.")
    try:
        now = planner.plan(noise, every, rise, decline=decline)
    except ValueError as error:
        raise CollectorError(str(error)) from None
    plans = [(words, now.changed(noise=less, probes=more)) for words, less, more in IF]
    if as_json:
        print(msgspec.json.encode([{"if": words, **_row(one)} for words, one in plans]).decode())
        return
    console = Console()
    console.print(now.sentence)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("noise", "a probe every", "any rule, at best", "ours, rise times", "steps", "probes"):
        table.add_column(heading, justify="right")
    for words, one in plans:
        table.add_row(
            words,
            f"{100 * one.noise:.2g} %",
            f"{one.every_steps:.3g}",
            f"{one.bound:.2f}",
            f"{one.delay:.2f}",
            f"{one.delay_steps:,.0f}",
            f"{one.delay_probes:,.0f}",
        )
    console.print(table)


def _row(one: Plan) -> dict[str, float]:
    return {
        "noise": one.noise,
        "every_steps": one.every_steps,
        "rise_steps": one.rise_steps,
        "bound_rises": one.bound,
        "delay_rises": one.delay,
        "delay_steps": one.delay_steps,
        "delay_probes": one.delay_probes,
    }


def _measured(reader: Reader, run: str, quantity: str) -> Cadence:
    """The cadence of a stored quantity of the whole network, of the lowest rank that measured it."""
    row = find_run(reader, run)
    reader.need_reports(row.id)
    series = [one for one in reader.series(row.id) if not one.labels]
    chosen = next((one for one in series if one.quantity == quantity), None)
    if chosen is None:
        known = ", ".join(sorted({one.quantity for one in series})) or "none"
        raise CollectorError(f"Got the quantity {quantity!r}, which {row.name} did not measure. It measured: {known}.")
    points = reader.points([chosen.id])[chosen.id]
    good = [i for i, outcome in enumerate(points.outcome) if outcome == Outcome.OK]
    try:
        return planner.cadence(*([column[i] for i in good] for column in (points.step, points.value, points.paired)))
    except ValueError as error:
        raise CollectorError(f"The {quantity} of {row.name} is too short to plan by. {error}") from None
