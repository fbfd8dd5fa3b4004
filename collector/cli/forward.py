"""probe-collector forward."""

import signal
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from collector.cli.options import ConfigFile, StorePath, configured
from collector.engines.forwarder import Forwarder
from collector.errors import StoreError
from collector.log import event, to_stderr
from collector.store.queries import Reader

WAIT_SECONDS = 30.0
"""The longest between two attempts to reach a database that does not answer."""


def forward(
    to: Annotated[
        str,
        typer.Argument(
            help="The database: postgresql://USER@HOST/NAME. A password is better in ~/.pgpass: others see command lines.",
            envvar="PHASEWATCH_FORWARD_TO",
            show_envvar=True,
        ),
    ],
    once: Annotated[bool, typer.Option("--once", help="End when all that is stored now has been handed over.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 1.0,
    store: StorePath = None,
    config: ConfigFile = None,
) -> None:
    """Fill a PostgreSQL database with what the store holds, and go on as it grows."""
    try:
        import psycopg  # noqa: PLC0415 - an extra
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

        from collector.engines.postgresql import PostgreSQL  # noqa: PLC0415
    except ImportError as error:
        raise StoreError("Got no PostgreSQL client; install it: pip install 'phasewatch[postgresql]'") from error
    try:
        where = _in_words(conninfo_to_dict(to))
    except psycopg.Error:  # whose words would show the password
        raise StoreError(_NO_ADDRESS) from None
    settings, _ = configured(config, store)
    to_stderr(settings.log.level)
    reader = Reader(Path(settings.store.path))
    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    wait = every
    while not stop.is_set():
        try:
            engine = PostgreSQL(to)
            try:
                forwarder = Forwarder(reader, engine)
                while not stop.is_set():
                    if count := forwarder.round():
                        event("forward.points", points=count, total=forwarder.points)
                    if once:
                        return
                    wait = every
                    stop.wait(every)
            finally:
                engine.close()
        except (psycopg.Error, sqlite3.Error) as error:
            if once:
                raise StoreError(f"Got the database {where}, which cannot be filled: {error}") from error
            event("forward.failed", error=str(error).strip(), again_in_seconds=wait)
            stop.wait(wait)
            wait = min(2 * wait, WAIT_SECONDS)


_NO_ADDRESS = (
    "Got the address of a database that is not one of PostgreSQL's; need postgresql://USER@HOST/NAME or host=HOST dbname=NAME. Write what is "
    "not a letter or a digit in a password as %XX, or put the password into ~/.pgpass."
)


def _in_words(parts: Mapping[str, object]) -> str:
    """The address without its password."""
    host = str(parts.get("host", ""))
    if "@" in host:  # the end of a password
        raise StoreError(_NO_ADDRESS)
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{parts.get('user', '')}@{host}{port}/{parts.get('dbname', '')}"
