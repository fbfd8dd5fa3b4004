"""probe-collector rules list, show and test."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from collector.cli.options import AsJson, ConfigFile, StorePath, configured, plain_text
from collector.cli.transitions import find_run
from collector.phases import ALPHA, MACHINES, Machine
from collector.phases.backtest import Judgement
from collector.phases.machine import Turn
from collector.phases.own import named, with_own
from collector.phases.score import Score, wilson
from collector.phases.trial import Trial, percent, sentence, trials
from collector.store.backtest import NEWEST, against
from collector.store.queries import Reader
from collector.store.replay import replayed

Which = Annotated[str, typer.Argument(help="The name of a machine that ships, or a TOML file.", metavar="NAME|FILE")]
AsToml = Annotated[bool, typer.Option("--toml", help="Print the machine's file, to start one of your own from.")]
Runs = Annotated[list[str] | None, typer.Option("--run", help="Only this stored run, by id or name. Repeatable.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, max=10_000, help="Simulated curves of each kind.")]
Alpha = Annotated[float, typer.Option("--alpha", min=1e-9, max=0.5, help="Probability of a false claim in one series.")]

rules = typer.Typer(help="Look at phase machines, and try them before they are trusted.", no_args_is_help=True)


@rules.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the machines that judge here: those that ship and those of the configuration."""
    settings, _ = configured(config)
    machines = with_own(settings.phases.machines)
    if as_json:
        print(msgspec.json.encode([{"version": one.version, **msgspec.to_builtins(one)} for one in machines]).decode())
        return
    console = Console()
    for one in machines:
        own = "" if one in MACHINES else " (own)"
        console.print(f"[bold]{one.name}[/]{own}  version {one.version}")
        told = f"{_judges(one)}: {', '.join(phase.name for phase in one.phases)}"
        console.print(Padding(Text(told), (0, 0, 0, 2)))


@rules.command()
def show(which: Which, as_toml: AsToml = False, as_json: AsJson = False) -> None:
    """Show the phases and turns of a machine in words, or its file."""
    machine = named(which)
    if as_toml:
        own = Path(which)
        shipped = files("collector.phases.machines") / f"{machine.name}.toml"
        print((shipped if machine in MACHINES and not own.is_file() else own).read_text("utf-8"), end="")
        return
    if as_json:
        print(msgspec.json.encode({"version": machine.version, **msgspec.to_builtins(machine)}).decode())
        return
    console = Console()
    console.print(f"[bold]{machine.name}[/]  version {machine.version}")
    console.print(
        f"judges {_judges(machine)}; values on a {machine.value_scale} axis, steps on a {machine.step_scale} one"
    )
    if machine.source:
        console.print(f"after {machine.source}", markup=False)
    for phase in machine.phases:
        console.print(f"\n[bold]{phase.name}[/]{' (may be absent)' if phase.optional else ''}: {phase.meaning}")
        for turn in machine.turns_from(phase.name):
            console.print(f"  → {turn.to_phase} {_when(turn)}")
            if turn.advice:
                console.print(f"    {turn.advice}", markup=False)


@rules.command("test")
def try_out(
    which: Which,
    run: Runs = None,
    seeds: Seeds = 100,
    alpha: Alpha = ALPHA,
    config: ConfigFile = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Try a machine on simulated curves and on every stored run that has its quantity: false alarms, misses, delays."""
    machine = named(which)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tried = trials(machine, seeds, alpha, pool.map)
    recorded = _recorded(machine, run, alpha, config, store)
    if as_json:
        rows = [{"run": name, **msgspec.to_builtins(one)} for name, one in recorded]
        simulated = msgspec.to_builtins(tried)
        print(msgspec.json.encode({"machine": machine.name, "simulated": simulated, "recorded": rows}).decode())
        return
    console = Console()
    console.print(_alarms(tried))
    console.print(_found(tried))
    console.print(
        "A delay is in rise times T, × least over the least that any rule could have; hard nulls look like a turn for a while."
    )
    if recorded:
        console.print(_stored(recorded))
    console.print(_said(recorded))
    console.print(sentence(tried, alpha))


def _recorded(
    machine: Machine, run: list[str] | None, alpha: float, config: Path | None, store: str | None
) -> list[tuple[str, Judgement]]:
    """What a machine alone would have told of stored runs, by the run's name; nothing where there is no store yet."""
    settings, _ = configured(config, store)
    path = Path(settings.store.path)
    if not path.exists() and store is None and not run:
        return []
    reader = Reader(path)
    rows = [find_run(reader, one) for one in run] if run else reader.runs()[:NEWEST]
    return [
        (row.name, one)
        for row in rows
        if any(series.quantity == machine.quantity for series in reader.series(row.id))
        for one in against(reader, row.id, [machine], replayed(reader, row.id, [machine], alpha))
    ]


def _alarms(tried: Sequence[Trial]) -> Table:
    table = _table("curves without the turn", ("false alarms", "of", "at most", "retracted"))
    for trial in tried:
        table.add_row(f"[bold]{trial.from_phase} → {trial.to_phase}[/]")
        for one in trial.alarms:
            most = wilson(one.false, one.n)[1]
            table.add_row(
                f"  {one.null}{' (hard)' if one.hard else ''}",
                *(str(one.false), str(one.n), percent(most), str(one.retracted) if one.false else "–"),
            )
    return table


def _found(tried: Sequence[Trial]) -> Table:
    table = _table("\ncurves with it", ("hits", "of", "early", "missed", "not reached", "delay", "× least"))
    for trial in tried:
        table.add_row(f"[bold]{trial.from_phase} → {trial.to_phase}[/]")
        for one in trial.found:
            table.add_row(
                f"  SNR {one.snr:g}",
                *(str(count) for count in (one.hits, one.n, one.early, one.missed, one.unreached)),
                f"{one.delay:.2f} {'T' if trial.unit == 'rise times' else trial.unit}" if one.delay < inf else "–",
                f"{one.over_bound:.2f}" if one.over_bound else "–",
            )
    return table


def _stored(recorded: Sequence[tuple[str, Judgement]]) -> Table:
    table = _table("\nstored runs", ("happened", "known", "finding"))
    for name, one in recorded:
        subject = "".join(f" [{value}]" for value in one.subject.values())
        happened = "–" if one.label.happened is False else "?" if one.label.step is None else f"{one.label.step:,}"
        delay = "" if one.scored.delay is None else f", {one.scored.delay:,} steps late"
        why = f": {one.label.reason}" if one.label.happened is None else ""
        known = "–" if one.known_step is None else f"{one.known_step:,}"
        table.add_row(
            plain_text(f"{name}{subject}: {one.from_phase} → {one.to_phase}"),
            happened,
            known,
            f"{one.scored.finding}{delay}{why}",
        )
    return table


def _said(recorded: Sequence[tuple[str, Judgement]]) -> str:
    """The stored runs in words."""
    if not recorded:
        return "\nNo stored run has its quantity."
    score = Score.of(one.scored for _, one in recorded)
    counts = f"{score.hits} hits, {score.false_alarms} false alarms, {score.misses} misses, {score.quiet} rightly quiet"
    return f"\nOn stored runs: {counts}, {score.not_labelled} that hindsight does not know."


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for heading in headings:
        table.add_column(heading, justify="right" if heading != "finding" else "left")
    return table


def _judges(machine: Machine) -> str:
    subject = "each layer" if machine.subject == "layer" else "the network"
    labels = "".join(f", {key} {value}" for key, value in machine.labels.items())
    return f"{machine.quantity} of {subject}{labels}"


def _when(turn: Turn) -> str:
    """When a turn is taken, with what is not as usual."""
    usual = Turn(from_phase=turn.from_phase, to_phase=turn.to_phase, when=turn.when)
    words = (
        "min_effect",
        "min_points",
        "flat",
        "at_least",
        "at_most",
        "slope",
        "band",
        "window",
        "spreads",
        "share",
        "act",
    )
    said = [f"{word} {getattr(turn, word)}" for word in words if getattr(turn, word) != getattr(usual, word)]
    return f"on a {turn.when}" + (f" ({', '.join(said)})" if said else "")
