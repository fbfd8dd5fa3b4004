"""Layout: how the store's file is opened for writing, made, and brought up to date, in one transaction whatever its age."""

import os
import sqlite3
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from collector.errors import StoreError
from collector.store.compaction import compact_if_small, gives_back
from collector.store.timeline import FIRST_LIFE

APPLICATION_ID = 0x50484153  # "PHAS": tells our files from any other SQLite file
LAYOUT = 6
_ANEW = {
    1: "transitions (run_id, machine, subject, ordinal, state, frame_id, known_at, body) "
    "SELECT run_id, machine, subject, ordinal, 'detected', frame_id, known_at, body FROM old_transitions "
    "ORDER BY frame_id, machine, subject, ordinal",
    2: "transitions SELECT * FROM old_transitions",
}
"""How the transitions of the first layouts become this one's; the very first had one row a claim."""

_LOG = (
    "INSERT INTO log (place, frame, step, received_at, body) SELECT (stream_id << 32) | (seq & 4294967295), id, step, received_at, body FROM frames ORDER BY 1",
    "INSERT INTO last_frame SELECT COALESCE(MAX(id), 0) FROM frames",
    "DROP TABLE frames",
)


_CRC = "ALTER TABLE log ADD COLUMN crc INTEGER"


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The one connection that writes to the file, which is made when it does not exist.

    Raises:
        StoreError: the file is something else, or has a newer layout.
    """
    db = _opened(path)
    if not gives_back(db):
        db.close()
        compact_if_small(path)
        db = _opened(path)
    return db


def _opened(path: Path) -> sqlite3.Connection:
    # A new one is its owner's alone, and its companions become like it; why none can be made, SQLite says.
    with suppress(OSError):
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    layout = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if tables and application_id != APPLICATION_ID:
        raise StoreError(f"Got {path}, an SQLite file of another program. Choose another file with --store.")
    if layout > LAYOUT:
        raise StoreError(
            f"Got {path} of layout {layout}; this release knows layouts up to {LAYOUT}. Install the newer release."
        )
    if not tables:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only a file without tables takes it
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(
        "PRAGMA secure_delete = OFF"
    )  # on where Debian built it: what leaves `arrived` would be written once more, as zeros
    db.execute("PRAGMA journal_size_limit = 67108864")
    db.execute("PRAGMA wal_autocheckpoint = 32000")  # `Store.tidy` is sooner, while nobody waits for a commit
    db.execute("PRAGMA cache_size = -98304")  # the last page of each of 5,000 streams, and what has come
    if layout < LAYOUT:
        _bring_up_to_date(db, layout)
    db.execute("PRAGMA foreign_keys = ON")
    return db


def _bring_up_to_date(db: sqlite3.Connection, layout: int) -> None:
    """All or nothing, so that one who is killed in the middle leaves the old layout.

    What older layouts kept of each point was taken from the messages, which they kept too and which are read here.
    """
    schema = files("collector.store").joinpath("schema.sql").read_text(encoding="utf-8")
    script = ["BEGIN IMMEDIATE", *_before(db, layout), schema, *_after(layout)]
    script += [FIRST_LIFE, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {LAYOUT}", "COMMIT"]
    try:
        db.executescript(";\n".join(script))
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _before(db: sqlite3.Connection, layout: int) -> list[str]:
    """What makes way for the tables of this layout."""
    if not layout:
        return []
    if layout == 5:
        return [_CRC, "ALTER TABLE arrived ADD COLUMN crcs BLOB"]
    if layout == 4:
        return [
            "INSERT OR IGNORE INTO log SELECT place, frame, step, received_at, body FROM arrived",
            "DROP TABLE arrived",
            _CRC,
        ]
    script = [
        "ALTER TABLE streams ADD COLUMN started_at REAL NOT NULL DEFAULT 0",
        "ALTER TABLE streams ADD COLUMN ended INTEGER NOT NULL DEFAULT 0",
    ]
    if layout == 3:
        script.append(_CRC)
    if layout in _ANEW:
        columns = {column[1] for column in db.execute("PRAGMA table_info(runs)")}
        script.append("ALTER TABLE transitions RENAME TO old_transitions")
        if "owner" not in columns:
            script.append("ALTER TABLE runs ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
        script.append("ALTER TABLE runs ADD COLUMN thinned_at REAL")
    if layout == 2:
        script.append("ALTER TABLE phase_states RENAME TO old_phase_states")
    return script


def _after(layout: int) -> list[str]:
    """What fills them."""
    script = []
    if layout in _ANEW:
        script += [f"INSERT INTO {_ANEW[layout]}", "DROP TABLE old_transitions", "DROP TABLE points", *_LOG]
    elif not layout:
        script.append("INSERT INTO last_frame SELECT 0 WHERE NOT EXISTS (SELECT * FROM last_frame)")
    if layout == 2:
        script += ["INSERT INTO phase_states SELECT * FROM old_phase_states", "DROP TABLE old_phase_states"]
    return script
