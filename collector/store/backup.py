"""Backup: a copy of the store as it stood at one moment, made while the collector goes on writing."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from collector.errors import StoreError
from collector.store.layout import APPLICATION_ID


def back_up(store: Path, copy: Path) -> int:
    """Copy the store into a new file without its free space, look the copy over, and return how many runs it holds.

    SQLite's ``VACUUM INTO`` over a connection that can only read (sqlite.org/lang_vacuum.html): the writer waits for nothing. The
    file has its name only when it is whole and on the disk.

    Raises:
        StoreError: there is no store, the copy exists already, or it cannot be written or does not hold.
    """
    if not store.exists():
        raise StoreError(f"Got the store {store}, which does not exist. Name one with --store.")
    if copy.exists():
        raise StoreError(f"Got {copy} for a backup, which exists already. Choose another file, or remove it.")
    partial = copy.with_name(copy.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)) as db:
            db.execute("VACUUM INTO ?", (str(partial),))
        runs = _looked_over(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(copy)
        _sync(copy.absolute().parent)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"The backup {copy} could not be made: {error}. Is there room, and may you write there?"
        ) from error
    return runs


def _looked_over(copy: Path) -> int:
    with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as db:
        if db.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the copy is damaged")
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise sqlite3.DatabaseError("the store is not one of ours")
        return int(db.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
