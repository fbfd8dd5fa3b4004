"""probe-collector backtest."""

from itertools import groupby
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from collector.cli.options import AsJson, ConfigFile, StorePath, configured
from collector.cli.transitions import find_run
from collector.phases.own import with_own
from collector.phases.score import Score
from collector.store import backtest as realised
from collector.store.backtest import Realised
from collector.store.queries import Reader

WIDE = 100
"""Columns of a terminal from which a turn stands on one line."""
WhichRuns = Annotated[list[str] | None, typer.Argument(help="Ids or names of runs; without any, the newest 200.")]


def backtest(
    runs: WhichRuns = None,
    config: ConfigFile = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Judge in hindsight what was told of stored runs: false alarms against alpha, misses and delays."""
    settings, _ = configured(config, store)
    reader = Reader(Path(settings.store.path))
    rows = [find_run(reader, run) for run in runs] if runs else None
    machines = with_own(settings.phases.machines)
    found = realised.backtest(reader, machines, settings.phases.alpha, runs=rows)
    if as_json:
        print(msgspec.json.encode([_row(one) for one in found]).decode())
        return
    whole = found[0]
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("turn", no_wrap=True)
    for heading in ("known", "false\nalarms", "at\nmost", "alpha", "hits", "missed", "steps\nlate"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("all runs", *_figures(whole), style=None if whole.kept else "red")
    arrow = " → " if console.width >= WIDE else " →\n  "
    for machine, turns in groupby(found[1:], lambda one: one.machine):
        table.add_row(f"[bold]{machine}[/]")
        for one in turns:
            table.add_row(f"  {one.from_phase}{arrow}{one.to_phase}", *_figures(one), style=None if one.kept else "red")
    console.print(table)
    console.print(f"\n{_sentence(whole)}")


def _sentence(whole: Realised) -> str:
    score: Score = whole.score
    if not score.labelled:
        return "No run is labelled: none was judged by these machines, or hindsight knows of none what happened."
    low, high = score.false_alarm_interval
    delay = "" if score.median_delay is None else f" What happened was known {score.median_delay:,.0f} steps after it."
    return (
        f"{score.false_alarms} of {score.labelled} labelled runs had a false alarm ({100 * low:.2g} to {100 * high:.3g} % at 95 % "
        f"confidence), promised are at most {100 * whole.alpha:g} %: {'kept as far as can be told' if whole.kept else 'not kept'}.{delay}"
    )


def _figures(one: Realised) -> tuple[str, ...]:
    """The cells of a line behind its name."""
    score = one.score
    return (
        f"{score.labelled}/{score.labelled + score.not_labelled}",
        f"{score.false_alarms}",
        f"{100 * score.false_alarm_interval[1]:.2g} %" if score.labelled else "–",
        f"{100 * one.alpha:.2g} %",
        f"{score.hits}",
        f"{score.misses}",
        "–" if score.median_delay is None else f"{score.median_delay:,.0f}",
    )


def _row(one: Realised) -> dict[str, object]:
    score = one.score
    return {
        "machine": one.machine,
        "from_phase": one.from_phase,
        "to_phase": one.to_phase,
        "alpha": one.alpha,
        "labelled": score.labelled,
        "false_alarm_rate": score.false_alarm_rate,
        "false_alarm_interval": score.false_alarm_interval,
        **msgspec.structs.asdict(score),
    }
