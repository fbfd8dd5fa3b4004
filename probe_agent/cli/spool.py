"""probe-agent spool: what jobs on this machine could not deliver yet."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import zmq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from probe_post import spools
from probe_post.estate import Legacy
from probe_post.spool import Spool, decoded
from probe_wire.agent_key import AgentKey, KeyFileError

spool = typer.Typer(help="What jobs on this machine could not deliver yet.", no_args_is_help=True)


@spool.command("list")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
) -> None:
    """List the streams of which reports wait on this machine, the oldest first."""
    root = _root()
    found = spools.survey(root)
    if as_json:
        print(json.dumps([waiting._asdict() for waiting in found], indent=2))
        return
    console = Console()
    if not found:
        console.print(f"Nothing waits in {root}.", highlight=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("stream", "run", "rank", "for the collector", "MB", "last written", "messages"):
        table.add_column(heading, justify="right" if heading in {"rank", "MB", "messages"} else "left")
    for waiting in found:
        table.add_row(
            waiting.stream,
            escape(waiting.run or "(unreadable)"),
            str(waiting.rank),
            escape(waiting.collector),
            f"{waiting.bytes / 1e6:.1f}",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(waiting.written)),
            "its job is alive" if waiting.messages is None else f"{waiting.messages:,}",
        )
    console.print(table)
    console.print(f"\nIn {root}. `probe-agent spool deliver` sends what dead jobs left.", style="dim", highlight=False)


@spool.command()
def deliver(
    collector: Annotated[
        str, typer.Option(help="Where to, instead of the collector each was meant for: tcp://HOST:PORT.")
    ] = "",
    key: Annotated[
        Path | None,
        typer.Option(help="The key file that lets this machine in.", envvar="PHASEWATCH_KEY", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Without any answer before it gives up.", min=1)] = 10,
) -> None:
    """Send what dead jobs on this machine left behind. Exit status 1 when something is left."""
    console = Console(stderr=True)
    try:
        proof = AgentKey.load(key) if key else None
    except KeyFileError as error:
        console.print(escape(str(error)), style="red", highlight=False)
        raise typer.Exit(2) from error
    left = 0
    for found, address in _dead(_root(), collector):
        greeting = decoded(found.stream)
        if greeting is None or not address:
            found.close(delete=False)
            left += 1
            continue
        legacy = Legacy(found, greeting, address, proof)
        legacy.courier.hurry()
        count = len(legacy.ledger)
        done = _delivered(legacy, seconds)
        left += not done
        words = "delivered" if done else f"not delivered, {len(legacy.ledger):,} are left"
        console.print(
            f"{escape(greeting.run.name)} rank {greeting.rank}: {count:,} messages for {address}: {words}",
            highlight=False,
        )
        legacy.ledger.close()
    raise typer.Exit(1 if left else 0)


@spool.command()
def drop(stream: Annotated[str, typer.Argument(help="As `list` names it.")]) -> None:
    """Delete what waits of one stream whose job is dead; the collector never gets it."""
    console = Console(stderr=True)
    for folder in spools.everything(_root()):
        if folder.name == stream:
            if (found := Spool.adopt(folder)) is None:
                console.print(f"Got {stream}, whose job is alive, or which holds nothing that can be read.")
                raise typer.Exit(2)
            found.close(delete=True)
            return
    console.print(f"Got {stream!r}, which is no stream of `probe-agent spool list`.", highlight=False)
    raise typer.Exit(2)


def _delivered(legacy: Legacy, seconds: float) -> bool:
    """Send it all; False when nothing was acknowledged for so long, or it is refused."""
    with zmq.Context() as context:
        legacy.line.connect(context)
        try:
            left, heard = len(legacy.ledger), time.monotonic()
            while left and not legacy.refused and time.monotonic() - heard < seconds:
                legacy.turn(milliseconds=50)
                if len(legacy.ledger) < left:
                    left, heard = len(legacy.ledger), time.monotonic()
        finally:
            legacy.line.disconnect()
    return not left


def _dead(root: Path, collector: str) -> Iterator[tuple[Spool, str]]:
    for folder in list(spools.everything(root)):
        if (found := Spool.adopt(folder)) is not None:
            yield found, collector or spools.collector_of(folder)


def _root() -> Path:
    root = spools.root()
    if root is None:
        Console(stderr=True).print("PHASEWATCH_SPOOL says off: nothing waits on disk.")
        raise typer.Exit(2)
    if os.access(root, os.F_OK) and not spools.is_own(root):
        words = f"Got the folder {root}; need one that belongs to you and that only you can write to."
        Console(stderr=True).print(escape(words), highlight=False)
        raise typer.Exit(2)
    return root
