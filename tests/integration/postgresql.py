"""A real PostgreSQL on a socket of its own in a folder of its own; ended, or killed, by its own process id."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import psycopg
import pytest

from tests.patience import eventually


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; the test is skipped where it is not installed."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    return found or pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")


class PostgreSQLServer:
    """One cluster with one database. It does not run as root, so as root it runs as ``postgres``."""

    def __init__(self) -> None:
        self._user = "postgres" if os.geteuid() == 0 else None
        program("postgres")
        self._folder = Path(tempfile.mkdtemp(prefix="phasewatch-postgresql-"))
        self.address = f"host={self._folder} dbname=postgres user=watcher"
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)

    def __enter__(self) -> Self:
        self._run([program("initdb"), "-D", str(self._folder / "data"), "-U", "watcher", "-A", "trust", "--no-sync"])
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGINT)
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            program("postgres"),
            "-D",
            str(self._folder / "data"),
            "-k",
            str(self._folder),
            "-c",
            "listen_addresses=",
        ]
        self._process = subprocess.Popen(
            command, user=self._user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder
        )
        eventually(self._answers, seconds=30, what="PostgreSQL to answer")

    def end(self, how: signal.Signals) -> None:
        """SIGINT ends it quickly and in order, SIGKILL at once."""
        self._process.send_signal(how)
        self._process.wait(20)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """What a query gives; nothing where its tables are not made yet."""
        with psycopg.connect(self.address) as db:
            try:
                return db.execute(query.encode()).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

    def _answers(self) -> bool:
        try:
            return bool(self.rows("SELECT 1"))
        except psycopg.OperationalError:
            return False

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, user=self._user, check=True, stdout=subprocess.DEVNULL, cwd=self._folder)
