"""Arrivals: messages wait in the order in which they came until many of each stream can be put side by side at once.

Where a thousand streams report, a page of the log changes for every report that is put in its place, and is written whole, to the
write-ahead log and then to the file. Here reports come one after another on the same page; several of a stream are then put in place
on one page at once.
"""

import logging
import sqlite3
from collections import Counter

from collector.log import event
from collector.store.rows import insert
from collector.store.sealing import SOME_SCHEMA, Sealer

LEAST, MOST, MOST_BYTES = 512, 16_384, 16 * 2**20
"""Reports that wait before they are put in place, if at the same time ``EACH`` of every stream do; and the most that may."""
EACH = 8
OVERDUE = 4
"""Times that much: it could not be put in place between two commits, and the next waits for it."""
_WAITING = """
    SELECT s.id, COUNT(*), SUM(LENGTH(a.body)), s.finished IS NOT NULL
    FROM arrived a JOIN streams s ON s.id = a.place >> 32 GROUP BY s.id
"""


class Arrivals:
    """See the module. Works within the caller's transaction."""

    def __init__(self, db: sqlite3.Connection, sealer: Sealer) -> None:
        self._db = db
        self._sealer = sealer
        self._new: list[tuple[int, int, int, float, bytes]] = []
        self._reports: Counter[tuple[int, int]] = Counter()
        self._bytes: Counter[tuple[int, int]] = Counter()
        self._ended = False
        self._known = False

    def rolled_back(self) -> None:
        """What has come since the last commit is undone; what is there is looked at when the disk is asked next."""
        self._new.clear()
        self._ended = False
        self._known = False

    def look(self) -> None:
        """See what is there, where that is not known: an earlier life or a transaction that was undone left it so."""
        if self._known:
            return
        self._known = True
        rows = self._db.execute(_WAITING).fetchall()
        self._reports = Counter({(stream_id, SOME_SCHEMA): count for stream_id, count, *_ in rows})
        self._bytes = Counter({(stream_id, SOME_SCHEMA): size for stream_id, _, size, _ in rows})
        for stream_id in (stream_id for stream_id, *_, ended in rows if ended):
            self._ended = True
            self._sealer.ended(stream_id)

    def put(self, frame: int, place: int, step: int, received_at: float, body: bytes, schema_id: int | None) -> None:
        """A report against a schema, or a goodbye against none, has come."""
        self._new.append((frame, place, step, received_at, body))
        if schema_id is None:
            self._ended = True
        else:
            of = place >> 32, schema_id
            self._reports[of] += 1
            self._bytes[of] += len(body)

    def write(self) -> None:
        """Write down what has come since this was done last."""
        new, self._new = self._new, []
        insert(self._db, "arrived", ("frame", "place", "step", "received_at", "body"), new)

    @property
    def due(self) -> bool:
        """Whether it is time to put everything in its place: also when a stream has ended, so that it can be sealed."""
        return self._ended or self._bytes.total() >= MOST_BYTES or self._enough(self._reports.total())

    @property
    def overdue(self) -> bool:
        """Whether far more waits than may: what waits for its place must not grow for ever."""
        return self._bytes.total() >= OVERDUE * MOST_BYTES or self._reports.total() >= OVERDUE * MOST

    def settle(self) -> None:
        """Put everything in its place in the log."""
        placed = self._db.execute(
            "INSERT OR IGNORE INTO log (place, frame, step, received_at, body) "
            "SELECT place, frame, step, received_at, body FROM arrived ORDER BY place"
        ).rowcount
        if (
            twice := self._db.execute("DELETE FROM arrived").rowcount - placed
        ):  # in a damaged store; nothing must wait for ever
            event("store.kept_once", logging.ERROR, reports=twice, remedy="probe-collector doctor")
        for (stream_id, schema_id), count in self._reports.items():
            self._sealer.arrived(stream_id, schema_id, count, self._bytes[stream_id, schema_id])
        self._reports.clear()
        self._bytes.clear()
        self._ended = False

    def _enough(self, waiting: int) -> bool:
        if not LEAST <= waiting < MOST:
            return waiting >= MOST
        return waiting >= EACH * len({stream_id for stream_id, _ in self._reports})
