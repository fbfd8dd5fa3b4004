"""probe-collector replay."""

from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from collector.cli.options import AsJson, ConfigFile, StorePath, configured, plain_text
from collector.cli.transitions import WhichRun, described, find_run
from collector.phases import Transition
from collector.phases.own import with_own
from collector.store.queries import Reader
from collector.store.replay import replayed

OtherMachines = Annotated[
    list[Path] | None,
    typer.Option(
        "--machine", help="What if this machine had judged too, or in place of the one of its name? Repeatable."
    ),
]
OtherAlpha = Annotated[
    float | None,
    typer.Option("--alpha", min=1e-9, max=0.5, help="What if this had been the run's alpha? 0.001 is 0.1 %."),
]


def replay(
    run: WhichRun = None,
    machine: OtherMachines = None,
    alpha: OtherAlpha = None,
    config: ConfigFile = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Judge a stored run again from its first report, and compare with what was found live.

    Exit status 1 when the transitions differ: the phase machines have changed since. With --machine or --alpha a what-if
    beside what was found live, which may differ.
    """
    settings, _ = configured(config, store)
    reader = Reader(Path(settings.store.path))
    row = find_run(reader, run)
    live = [stored.transition for stored in reader.transitions(row.id)]
    what_if = bool(machine) or alpha is not None
    machines = with_own(machine or [], with_own(settings.phases.machines))
    again = replayed(reader, row.id, machines, settings.phases.alpha if alpha is None else alpha)
    same = msgspec.json.encode(again) == msgspec.json.encode(live)
    if as_json:
        print(msgspec.json.encode({"run": row.id, "same": same, "transitions": again, "live": live}).decode())
    elif what_if:
        Console().print(_compared(live, again))
    else:
        console = Console()
        for transition in again:
            console.print(described(transition))
        console.print()
        console.print(
            f"{len(again)} transitions, the same to the byte as found live."
            if same
            else f"{len(again)} transitions in replay, {len(live)} found live: they differ."
        )
    if not (same or what_if):
        raise typer.Exit(1)


class Claim(msgspec.Struct, frozen=True):
    """One episode as it ended: when it happened, the step at which it was detected (suspected, where it never was), its last state."""

    happened_step: int
    known_step: int
    state: str


def _compared(live: list[Transition], what_if: list[Transition]) -> Table:
    """Claim by claim of each turn, what was found live and what would have been."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("happened → known")
    for side in ("live", "what if"):
        table.add_column(side, no_wrap=True)
    found = [_claims(live), _claims(what_if)]
    for turn in dict.fromkeys([*found[0], *found[1]]):
        for pair in zip_longest(found[0].get(turn, []), found[1].get(turn, [])):
            cells = (f"{one.happened_step:,} → {one.known_step:,} {one.state}" if one else "–" for one in pair)
            table.add_row(plain_text(turn), *cells)
    if not table.row_count:
        table.add_row("nothing", "–", "–")
    return table


def _claims(transitions: list[Transition]) -> dict[str, list[Claim]]:
    """The claims on each turn of each subject, in order."""
    episodes: dict[tuple[str, int], list[Transition]] = {}
    for one in transitions:
        subject = "".join(f" [{value}]" for value in one.subject.values())
        turn = f"{one.machine}{subject}: {one.from_phase} → {one.to_phase}"
        episodes.setdefault((turn, one.ordinal), []).append(one)
    claims: dict[str, list[Claim]] = {}
    for (turn, _), states in episodes.items():
        known = next((one for one in states if one.state == "detected"), states[0])
        claims.setdefault(turn, []).append(Claim(known.happened_step, known.known_step, states[-1].state))
    return claims
