"""Sealing: messages that have come together leave the log and become blocks of columns, all in one transaction.

Nothing depends on when it happens: a reader finds a report in the log or in a block, never in both and never in none. So it is
done in small parts, some at each commit, and what is behind is only larger and slower to read.
"""

import json
import logging
import sqlite3
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from collector.log import event, logger
from collector.store.block import PLACE, Records, pack_places, pack_records, pack_rows, split
from collector.store.damage import set_aside
from collector.store.log import Row, messages, reports_by_schema, series_of
from collector.store.pyramid import BUCKET, extremes, placed
from collector.store.rows import insert

BLOCK = 1024
"""Reports of a block, at the most."""
BLOCK_BYTES = 8 * 2**20
"""Bytes of a block's messages, about: a network of thousands of layers must not fill the memory."""
WINDOW = 4
"""In so many blocks' worth of messages of one stream, those of a schema that is seldom used are sealed too."""
SOME_SCHEMA = -1
"""Of reports whose schema was not looked at."""
_SPANS = """
    SELECT s.id, s.finished IS NOT NULL,
        (SELECT MIN(place) FROM log WHERE place BETWEEN s.id << 32 AND (s.id << 32) + 4294967295),
        (SELECT MAX(place) FROM log WHERE place BETWEEN s.id << 32 AND (s.id << 32) + 4294967295)
    FROM streams s
"""
"""Of each stream where its part of the log begins and ends: quicker than to count what is in it."""
SEAL_SECONDS = 0.025
"""The time a commit may spend on it; a stream that has been begun is finished."""


class Sealer:
    """Knows which streams have enough in the log, and seals it. Works within the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._reports: dict[int, Counter[int]] = defaultdict(Counter)
        self._bytes: Counter[int] = Counter()
        self._due: dict[int, bool] = {}  # in the order they became so; True where the stream has ended
        self._sealed: dict[int, bool] = {}  # since the last commit
        self.failures = 0
        for stream_id, ended, first, last in db.execute(_SPANS).fetchall():
            if first is not None:
                self._reports[stream_id][SOME_SCHEMA] = count = last - first + 1
                if count >= BLOCK or (ended and count > BUCKET):
                    self._due[stream_id] = bool(ended)

    def committed(self) -> None:
        """What was sealed stays so."""
        self._sealed.clear()

    def rolled_back(self) -> None:
        """What was sealed since the last commit is in the log again."""
        self._due |= self._sealed
        self._sealed.clear()

    @property
    def waiting(self) -> int:
        """Streams that have enough in the log to be sealed."""
        return len(self._due)

    def arrived(self, stream_id: int, schema_id: int, count: int, size: int) -> None:
        """So many reports of so many bytes together are in the log."""
        reports = self._reports[stream_id]
        reports[schema_id] += count
        self._bytes[stream_id] += size
        if reports[schema_id] >= BLOCK or self._bytes[stream_id] >= BLOCK_BYTES or reports.total() >= WINDOW * BLOCK:
            self._due.setdefault(stream_id, False)

    def ended(self, stream_id: int) -> None:
        """Nothing more is expected of a stream."""
        self._due[stream_id] = True

    def seal(self, seconds: float = SEAL_SECONDS) -> None:
        """Seal what is due for about so long; a stream that cannot be sealed stays in the log, where it is as good."""
        until = time.perf_counter() + seconds
        while self._due and time.perf_counter() < until:
            stream_id, ended = next(iter(self._due.items()))
            self._db.execute("SAVEPOINT sealing")
            try:
                left = seal_stream(self._db, stream_id, ended=ended)
            except sqlite3.OperationalError:  # a full disk, say: nothing can be kept now
                raise
            except Exception:  # noqa: BLE001 - reports must go on being kept, whatever one of them looks like
                self._db.execute("ROLLBACK TO sealing")
                self.failures += 1
                logger.exception("store.sealing_failed")
                event("store.not_sealed", logging.WARNING, stream=stream_id)
                left = Counter()
            self._db.execute("RELEASE sealing")
            if left is not None:
                self._sealed[stream_id] = self._due.pop(stream_id)
                self._reports[stream_id] = left
                self._bytes[stream_id] = 0
                if ended:
                    del self._reports[stream_id], self._bytes[stream_id]


def seal_stream(db: sqlite3.Connection, stream_id: int, *, ended: bool) -> Counter[int] | None:
    """Seal the oldest in a stream's log that is worth it. Returns what is left by schema; None where there is more to seal."""
    oldest, cut = _oldest(db, stream_id)
    groups = reports_by_schema(oldest)
    sealed = {
        schema_id: _seal(db, stream_id, schema_id, rows)
        for schema_id, rows in groups.items()
        if _is_block(rows, 1) or ((cut or ended) and _is_block(rows, BLOCK // BUCKET))
    }
    if cut and not sealed:  # of very many schemas: it must not stop here for ever
        schema_id = max(groups, key=lambda each: len(groups[each]))
        sealed = {schema_id: _seal(db, stream_id, schema_id, groups[schema_id])}
    left = {schema_id: rows[sealed.get(schema_id, 0) :] for schema_id, rows in groups.items()}
    if any(sealed.values()) and (cut or any(_is_block(rows, 1) for rows in left.values())):
        return None
    return Counter({schema_id: len(rows) for schema_id, rows in left.items()})


def _oldest(db: sqlite3.Connection, stream_id: int) -> tuple[list[Row], bool]:
    """The oldest messages in a stream's log, but for the damaged, which are set aside, and whether there are more."""
    rows: list[Row] = []
    damaged: list[Row] = []
    size = 0
    cut = False
    for row in messages(db, stream_id, damaged=damaged.append):
        rows.append(row)
        size += len(row.body)
        if cut := len(rows) >= WINDOW * BLOCK or size >= WINDOW * BLOCK_BYTES:
            break
    set_aside(db, damaged)
    return rows, cut


def _is_block(rows: Sequence[Row], part: int) -> bool:
    return len(rows) >= BLOCK // part or sum(len(row.body) for row in rows) >= BLOCK_BYTES // part


def _seal(db: sqlite3.Connection, stream_id: int, schema_id: int, rows: list[Row]) -> int:
    """Make a block of the first of these messages; of how many. None, where they would not come back to the byte, and stay."""
    sizes = accumulate(len(row.body) for row in rows[: BLOCK - 1])
    rows = rows[: 1 + sum(size < BLOCK_BYTES for size in sizes)]
    bodies = [row.body for row in rows]
    series_ids = series_of(db, stream_id, schema_id)
    frames = split(bodies, len(series_ids))
    if frames is None:
        return 0
    places = np.array([row[1:4] for row in rows], PLACE)
    first, last = rows[0].frame, rows[-1].frame
    db.execute(
        "INSERT INTO blocks (first_frame, last_frame, stream_id, schema_id, reports, crc, places, envelopes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            first,
            last,
            stream_id,
            schema_id,
            len(rows),
            crc(bodies),
            pack_places(places),
            pack_rows([*frames.heads, *frames.tails]),
        ),
    )
    columns = [frames.points[:, i] for i in range(len(series_ids))]
    chunks = [(series_id, first, pack_records(column)) for series_id, column in zip(series_ids, columns, strict=True)]
    insert(db, "chunks", ("series_id", "first_frame", "body"), chunks)
    kept = extremes(frames.points, BUCKET)
    pyramid = [
        (series_id, first, last, len(rows), _kept(column, places, kept[:, i]))
        for i, (series_id, column) in enumerate(zip(series_ids, columns, strict=True))
    ]
    insert(db, "pyramid", ("series_id", "first_frame", "last_frame", "points", "body"), pyramid)
    db.execute(
        "DELETE FROM log WHERE place IN (SELECT value FROM json_each(?))", (json.dumps([row.place for row in rows]),)
    )
    return len(rows)


def _kept(column: Records, places: Records, mask: Records) -> bytes:
    return placed(column[mask], places[mask]).tobytes()


def crc(bodies: Iterable[bytes]) -> int:
    """The CRC-32 of messages one after another."""
    value = 0
    for body in bodies:
        value = zlib.crc32(body, value)
    return value
