"""probe-collector forward."""

import re
import signal
import sqlite3
import threading
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
        str, typer.Argument(help="The database: postgresql://USER@HOST/NAME.", envvar="PHASEWATCH_FORWARD_TO")
    ],
    once: Annotated[bool, typer.Option("--once", help="End when all that is stored now has been handed over.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 1.0,
    store: StorePath = None,
    config: ConfigFile = None,
) -> None:
    """Fill a PostgreSQL database with what the store holds, and go on as it grows."""
    try:
        import psycopg  # noqa: PLC0415 - an extra

        from collector.engines.postgresql import PostgreSQL  # noqa: PLC0415
    except ImportError as error:
        raise StoreError("Got no PostgreSQL client; install it: pip install 'phasewatch[postgresql]'") from error
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
                raise StoreError(
                    f"Got the database {_without_password(to)}, which cannot be filled: {error}"
                ) from error
            event("forward.failed", error=str(error).strip(), again_in_seconds=wait)
            stop.wait(wait)
            wait = min(2 * wait, WAIT_SECONDS)


def _without_password(address: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1@", re.sub(r"password=\S+", "password=…", address))
