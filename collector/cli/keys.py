"""probe-collector keys: who may send reports."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from collector.cli.options import AsJson, ConfigFile, configured
from collector.errors import AccessError
from collector.keys import Keys
from probe_wire.agent_key import KeyFileError

keys = typer.Typer(help="Make, list and revoke the keys of agents.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Whose key it is: a person, a team, a machine.")]
OutFile = Annotated[Path | None, typer.Option("--out", help="Where the key goes; default NAME.key here, - prints it.")]


@keys.command()
def create(name: Name, out: OutFile = None, config: ConfigFile = None) -> None:
    """Make a key. Its file is the only copy of the secret: carry it to where the agents run, and keep it private."""
    path = out or Path(f"{name}.key")
    if path.exists():
        raise AccessError(f"Got the file {path}, which exists already; name another with --out, or remove it.")
    known = _keys(config)
    first = not known.in_use
    key = known.create(name)
    if str(path) == "-":
        print(msgspec.json.encode(key).decode())
        return
    try:
        key.save(path)
    except KeyFileError as error:
        known.revoke(name)
        raise AccessError(f"{error} The key is revoked again.") from error
    print(f"{path} lets agents in as {name}. Where they run: chmod 600 {path.name}; export PHASEWATCH_KEY={path.name}")
    if first:
        print("It is the first key: a collector that is running lets everybody in until it is started again.")


@keys.command(name="list")
def list_keys(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the keys, also those revoked."""
    listed = _keys(config).listed
    if as_json:
        print(msgspec.json.encode(listed).decode())
        return
    if not listed:
        print("No keys yet: on this machine everybody is let in. Make one: probe-collector keys create NAME")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "made (UTC)", "revoked (UTC)", "public key"):
        table.add_column(heading, no_wrap=True)
    for key in listed:
        table.add_row(escape(key.name), _day(key.made_at), _day(key.revoked_at), f"{escape(key.public[:12])}…")
    Console().print(table)


@keys.command()
def revoke(name: Name, config: ConfigFile = None) -> None:
    """Let a key's agents in no more. A running collector follows within seconds."""
    _keys(config).revoke(name)
    print(f"The key of {name} is revoked.")


def _keys(config: Path | None) -> Keys:
    settings, _ = configured(config)
    return Keys(Path(settings.security.keys))


def _day(when: float | None) -> str:
    return "–" if when is None else datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M")
