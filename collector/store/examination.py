"""Examination: is the store whole, does it hold every report that was acknowledged, and is there room for more?

Everything is read over connections that cannot write, so a collector may be running.
"""

import sqlite3
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import msgspec

from collector.store.archive import block_bodies
from collector.store.batch import oldest, unplaced
from collector.store.block import POINT, unpack_places, unpack_records
from collector.store.compaction import COMMAND, gives_back
from collector.store.layout import APPLICATION_ID, LAYOUT
from collector.store.log import Row, is_sound, series_of
from collector.store.pyramid import BUCKET, extremes, placed
from collector.store.sealing import crc
from collector.store.space import space_of

SAFE_SQLITE = (3, 51, 3)
"""The first without the WAL-reset bug (sqlite.org/wal.html)."""


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at: what was found and, where it is wrong, what to do (empty where all is well)."""

    what: str
    found: str
    remedy: str = ""


def examine(path: Path) -> Iterator[Finding]:
    """Every check, one after another."""
    yield _rights(path)
    yield _version()
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as db:
            yield _space(path, db)
            yield _integrity(db)
            layout = _layout(db)
            yield layout
            if not layout.remedy:
                yield _nothing_missing(db)
                yield _waiting(db)
                yield _blocks(db)
    except sqlite3.DatabaseError as error:
        yield Finding(
            "integrity",
            f"cannot be read: {error}",
            "Restore the newest backup; agents send again what they still have.",
        )


def _rights(path: Path) -> Finding:
    mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Finding("permissions", f"others may write to it ({stat.filemode(mode)})", f"chmod go-w {path}")
    return Finding("permissions", stat.filemode(mode))


def _space(path: Path, db: sqlite3.Connection) -> Finding:
    space = space_of(path)
    found = f"{space.stored / 2**20:,.1f} MB and {space.spare / 2**20:,.1f} MB to fill; the disk has {space.disk_free / 2**30:,.1f} GB left"
    remedy = "Make room, or set store.keep_days or store.max_bytes. When the disk is full nothing more is acknowledged."
    if not space.nearly_full and not gives_back(db):
        return Finding("space", f"{found}; what retention takes away stays with the file", COMMAND)
    return Finding("space", found, remedy if space.nearly_full else "")


def _version() -> Finding:
    note = (
        ""
        if sqlite3.sqlite_version_info >= SAFE_SQLITE
        else "; let no other program write to the store, see sqlite.org/wal.html#walresetbug"
    )
    return Finding("SQLite", sqlite3.sqlite_version + note)


def _integrity(db: sqlite3.Connection) -> Finding:
    wrong = [row[0] for row in db.execute("PRAGMA integrity_check(5)") if row[0] != "ok"]
    wrong += [f"a row of {row[0]} refers to nothing" for row in db.execute("PRAGMA foreign_key_check").fetchmany(5)]
    remedy = "Restore the newest backup; agents send again what they still have."
    return Finding("integrity", "; ".join(wrong) or "ok", remedy if wrong else "")


def _layout(db: sqlite3.Connection) -> Finding:
    layout = db.execute("PRAGMA user_version").fetchone()[0]
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return Finding("layout", "an SQLite file of another program", "Name the store with --store.")
    if layout > LAYOUT:
        return Finding(
            "layout", f"{layout}, of a newer release than this, which knows {LAYOUT}", "Install that release."
        )
    if layout < LAYOUT:
        return Finding("layout", f"{layout}, of an older release", "Start the collector once: it takes the store over.")
    return Finding("layout", str(layout))


def _nothing_missing(db: sqlite3.Connection) -> Finding:
    """Every number of a stream up to its mark has arrived, is in the log or in a block, or is counted as lost."""
    db.execute("BEGIN")  # one moment of a store that is written to
    rows = db.execute("""
        SELECT s.id, s.run_id, s.rank, s.high - s.lost,
            (SELECT COUNT(*) FROM log l WHERE l.place BETWEEN s.id << 32 AND (s.id << 32) + 4294967295)
            + (SELECT COALESCE(SUM(reports), 0) FROM blocks b WHERE b.stream_id = s.id)
        FROM streams s
    """).fetchall()
    arrived = Counter((unplaced(db, [stream_id for stream_id, *_ in rows])["place"] >> 32).tolist())
    db.execute("COMMIT")
    rows = [(run, rank, due, held + arrived[stream_id]) for stream_id, run, rank, due, held in rows]
    wrong = [f"rank {rank} of {run} has {held:,} of {due:,}" for run, rank, due, held in rows if held != due]
    found = (
        "; ".join(wrong[:5])
        or f"{sum(held for *_, held in rows):,} messages of {len(rows):,} streams, as many as acknowledged"
    )
    return Finding("messages", found, "Restore the newest backup, and report this." if wrong else "")


def _waiting(db: sqlite3.Connection) -> Finding:
    """Each message that is in no block yet is what came, by its checksum; those that were not are set aside and counted as lost."""
    count = unknown = 0
    changed: list[Row] = []
    db.execute("BEGIN")
    query = f"SELECT {', '.join(Row._fields)} FROM log"  # noqa: S608 - our own names
    arrived, *_ = oldest(db, 2**63, 2**63)
    for row in map(Row._make, chain(db.execute(query), arrived)):
        count += 1
        unknown += row.crc is None
        if not is_sound(row):
            changed.append(row)
    lost = db.execute("SELECT COUNT(*) FROM damaged").fetchone()[0]
    db.execute("COMMIT")
    found = f"{count:,} are as they came" + (
        f"; {unknown:,} of them an older release kept without a checksum" if unknown else ""
    )
    found += f"; {lost:,} were not, are set aside and counted as lost" if lost else ""
    if changed:
        found = f"{len(changed):,} of {count:,} are not as they came, the first at frame {changed[0].frame:,}"
    remedy = "Restore the newest backup, or restart the collector, which counts them as lost; then see to the disk and the memory of the machine."
    return Finding("waiting messages", found, remedy if changed else "")


def _blocks(db: sqlite3.Connection) -> Finding:
    """Each block gives back the messages it was made of, and its pyramid is that of its chunks."""
    looked_at, wrong, thinned = 0, [], 0
    blocks = db.execute("SELECT first_frame, stream_id, schema_id, crc, places FROM blocks")
    for (
        first_frame,
        stream_id,
        schema_id,
        expected,
        places,
    ) in blocks:  # what is sealed or dropped meanwhile is not seen
        looked_at += 1
        try:
            series_ids = series_of(db, stream_id, schema_id)
            bodies = block_bodies(db, first_frame, series_ids)
            thinned += bodies is None
            if bodies is not None and not (
                crc(bodies) == expected and all(_pyramid_holds(db, each, first_frame, places) for each in series_ids)
            ):
                wrong.append(first_frame)
        except Exception:  # noqa: BLE001 - whatever is damaged, the other blocks are to be looked at
            wrong.append(first_frame)
    found = f"{looked_at:,} blocks give back what came" + (f", {thinned:,} of them thinned" if thinned else "")
    if wrong:
        found = f"{len(wrong):,} of {looked_at:,} blocks do not give back what came, the first at frame {wrong[0]:,}"
    return Finding("blocks", found, "Restore the newest backup, and report this." if wrong else "")


def _pyramid_holds(db: sqlite3.Connection, series_id: int, first_frame: int, places: bytes) -> bool:
    chunk, kept = db.execute(
        "SELECT c.body, p.body FROM chunks c JOIN pyramid p USING (series_id, first_frame) WHERE series_id = ? AND first_frame = ?",
        (series_id, first_frame),
    ).fetchone()
    points = unpack_records(chunk, POINT)
    mask = extremes(points, BUCKET)
    return placed(points[mask], unpack_places(places)[mask]).tobytes() == bytes(kept)
