"""probe-collector backtest."""

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
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("turn")
    for heading in ("labelled", "false alarms", "95 %", "alpha", "hits", "misses", "delay, steps"):
        table.add_column(heading, justify="right")
    for one in found:
        score = one.score
        low, high = score.false_alarm_interval
        table.add_row(
            f"{one.machine}: {one.from_phase} → {one.to_phase}" if one.machine else "all runs",
            f"{score.labelled} of {score.labelled + score.not_labelled}",
            f"{score.false_alarms}",
            f"{100 * low:.2g} to {100 * high:.3g} %" if score.labelled else "–",
            f"{100 * one.alpha:.2g} %",
            f"{score.hits}",
            f"{score.misses}",
            "–" if score.median_delay is None else f"{score.median_delay:,.0f}",
            style=None if one.kept else "red",
        )
    console = Console()
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
