"""Damage: messages of which a bit changed while they waited in the store are set aside, and counted as lost.

A disk that gives back something else than it was given says nothing; only the checksum of each message does. It is looked at whenever
a message is read. Here the writer takes away what does not hold: before it is sealed, and once after the start, for few messages of
a short run ever are.
"""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from collector.log import event
from collector.store.log import Row, is_sound, where_it_belongs

LOOK, LOOK_BYTES = 1024, 2**20
"""What is looked at at once."""
_COLUMNS = ", ".join(Row._fields)


class Damaged(NamedTuple):
    """Messages of one rank that were set aside."""

    run_id: str
    rank: int
    messages: int


class Damage:
    """See the module. Works within the caller's transaction, while no message is half-way to its place."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._told = self._newest()
        self.lost: Callable[[Damaged], None] = lambda _: None
        """Told of what was set aside, once that is committed."""
        self.look_again()

    def look_again(self) -> None:
        """At the start, or when something was undone."""
        self._at = -(2**63)
        self.to_look = True
        """Whether some of what is in the log was not looked at yet."""

    def look(self) -> None:
        """Look at some of the log, and set aside what is damaged."""
        found, size = [], 0
        query = f"SELECT {_COLUMNS} FROM log WHERE place > ? ORDER BY place LIMIT {LOOK}"  # noqa: S608 - our own names
        self.to_look = False
        with closing(self._db.execute(query, (self._at,))) as rows:
            for row in map(Row._make, rows):
                self._at, self.to_look = row.place, True
                if not is_sound(row):
                    found.append(row)
                size += len(row.body)
                if size > LOOK_BYTES:
                    break
        set_aside(self._db, found)

    def committed(self) -> None:
        """Tell what was set aside since the last commit."""
        if (newest := self._newest()) == self._told:
            return
        query = (
            "SELECT s.run_id, s.rank, COUNT(*) FROM damaged d JOIN streams s ON s.id = d.place >> 32 WHERE d.id > ? "
            "GROUP BY s.run_id, s.rank"
        )
        found = [Damaged(*row) for row in self._db.execute(query, (self._told,))]
        self._told = newest
        for each in found:
            self.lost(each)
            reason = "bits changed while they waited in the store"
            event("reports.lost", logging.WARNING, run=each.run_id, rank=each.rank, lost=each.messages, reason=reason)

    def _newest(self) -> int:
        return int(self._db.execute("SELECT COALESCE(MAX(id), 0) FROM damaged").fetchone()[0])


def set_aside(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Take messages out of the log, and count them as lost where they belong."""
    for row in rows:
        found = row._replace(place=where_it_belongs(row))
        db.execute(f"INSERT INTO damaged ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", found)  # noqa: S608 - our own names
        db.execute("DELETE FROM log WHERE place = ?", (row.place,))
        db.execute("UPDATE streams SET lost = lost + 1 WHERE id = ?", (found.place >> 32,))
