"""probe-collector replay."""

from pathlib import Path

import msgspec
import typer
from rich.console import Console

from collector.cli.options import AsJson, ConfigFile, StorePath, configured
from collector.cli.transitions import WhichRun, described, find_run
from collector.phases import PhaseEngine, Transition
from collector.store.queries import Reader
from probe_wire import Report, unpack


def replay(
    run: WhichRun = None,
    config: ConfigFile = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Judge a stored run again from its first report, and compare with what was found live.

    Exit status 1 when the transitions differ: the shipped phase machines have changed since.
    """
    settings, _ = configured(config, store)
    reader = Reader(Path(settings.store.path))
    row = find_run(reader, run)
    again = replayed(reader, row.id)
    live = [stored.transition for stored in reader.transitions(row.id)]
    same = msgspec.json.encode(again) == msgspec.json.encode(live)
    if as_json:
        print(msgspec.json.encode({"run": row.id, "same": same, "transitions": again, "live": live}).decode())
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
    if not same:
        raise typer.Exit(1)


def replayed(reader: Reader, run_id: str) -> list[Transition]:
    """The transitions a fresh phase engine finds in the stored reports of a run."""
    engine = PhaseEngine()
    schemas = reader.schemas(run_id)
    found: list[Transition] = []
    for frame in reader.frames(run_id):
        if isinstance(frame.message, Report):
            schema = schemas[frame.stream_id, frame.message.schema]
            measured = list(zip(schema.columns, unpack(frame.message, schema), strict=True))
            found += engine.update(frame.message.step, measured, frame.rank)
    return found
