"""Compaction: a store's file written anew, so that from then on it gives back to the disk what retention takes away.

A file that this release makes does so from the start; one taken over from the first layouts does not. SQLite writes it anew in one
transaction (VACUUM), so whoever is killed in the middle leaves it as it was. It takes two more files of its size, and about ten
seconds a GB; nobody else may have the store open.
"""

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from collector.errors import StoreError
from collector.log import event

AT_START = 256 * 2**20
"""Bytes of a file that a collector compacts while it starts; a larger one waits until a person has the time."""
INCREMENTAL = 2
COMMAND = "Stop the collector and run `probe-collector doctor --compact` once."


def gives_back(db: sqlite3.Connection) -> bool:
    """Whether free pages can be given back to the disk."""
    return bool(db.execute("PRAGMA auto_vacuum").fetchone()[0] == INCREMENTAL)


def compact(path: Path) -> None:
    """Write the file anew.

    Raises:
        StoreError: there is no room for it, somebody has the store open, or it cannot be written.
    """
    size, folder = path.stat().st_size, path.absolute().parent
    if (free := shutil.disk_usage(folder).free) < 2 * size:
        raise StoreError(
            f"Got {free / 2**20:,.0f} MB free on the disk of {path}; to write it anew takes {2 * size / 2**20:,.0f} MB. Make room."
        )
    try:
        with closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as db:
            quoted = str(folder).replace("'", "''")
            db.execute(f"PRAGMA temp_store_directory = '{quoted}'")
            db.execute("PRAGMA journal_mode = DELETE")  # fails while anybody else has it open
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("VACUUM")
            db.execute("PRAGMA temp_store_directory = ''")
    except sqlite3.Error as error:
        raise StoreError(
            f"Got the store {path}, which cannot be written anew: {error}. Is a collector running? {COMMAND}"
        ) from error


def compact_if_small(path: Path) -> None:
    """Write the file anew where that takes seconds; say so where it does not happen."""
    size = path.stat().st_size
    if size > AT_START:
        event("store.not_compacted", logging.WARNING, bytes=size, remedy=COMMAND)
        return
    try:
        compact(path)
    except StoreError as error:
        event("store.not_compacted", logging.WARNING, bytes=size, reason=str(error))
    else:
        event("store.compacted", bytes=size, now=path.stat().st_size)
