"""Arrivals: messages wait in the order in which they came until many of each stream can be put side by side at once.

Where a thousand streams report, a page of the log changes for every report that is put in its place, and is written whole, to the
write-ahead log and then to the file. Here reports come one after another; several of a stream are then put in place on one page at
once.

That is done in slices, each short, for reports wait meanwhile: slice by slice of the streams everything is written to the log, and
then slice by slice of the frames it is taken from here. In between a message is in both, whoever reads counts it once, and nothing is
sealed.

What waits is held in memory too. Where it cannot be known to be what is on the disk (at the start, after anything that was undone) the
disk is read instead, oldest first and no more at a time than may wait, and nothing is held before all of it is known.
"""

import json
import logging
import sqlite3
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from collector.log import event
from collector.store import batch
from collector.store.batch import Plain
from collector.store.log import Row, is_sound, where_it_belongs
from collector.store.rows import insert
from collector.store.sealing import SOME_SCHEMA, Sealer

LEAST, MOST, MOST_BYTES = 512, 32_768, 32 * 2**20
"""Reports that wait before they are put in place, if at the same time ``EACH`` of every stream do; and the most that may."""
EACH = 16
OVERDUE = 4
"""Times that much: it could not be put in place between two commits, and the next waits for it."""
SLICE, SLICE_BYTES = 2048, 2**20
"""What is put in place at once; about four times as much is taken away at once."""


@dataclass(slots=True)
class _Move:
    """Slices on their way to their place, in its order; then so many frames at a time are taken from here, gone up to one."""

    slices: deque[Sequence[Plain]]
    reports: Counter[tuple[int, int]]
    bytes: Counter[tuple[int, int]]
    stride: int
    gone: int
    until: int


class Arrivals:
    """See the module. Works within the caller's transaction."""

    def __init__(self, db: sqlite3.Connection, sealer: Sealer) -> None:
        self._db = db
        self._sealer = sealer
        self._until = 0
        self.look_again()

    def _empty(self) -> None:
        self._rows: list[Plain] = []
        self._written = 0
        self._reports: Counter[tuple[int, int]] = Counter()
        self._bytes: Counter[tuple[int, int]] = Counter()
        self._streams: set[int] = set()
        self._size = 0
        self._at_once = False

    def look_again(self) -> None:
        """What has come since the last commit is undone, or what waits is not what it was: the next slice begins with a look at the disk."""
        self._empty()
        self._move: _Move | None = None
        self._known = False
        self._unseen = 0

    def put(self, row: Plain, schema_id: int | None) -> None:
        """A report against a schema, or a goodbye against none, has come."""
        self._rows.append(row)
        stream_id, size = row[0] >> 32, len(row[4])
        self._size += size
        if schema_id is None:
            self._at_once = True
            return
        self._streams.add(stream_id)
        self._reports[stream_id, schema_id] += 1
        self._bytes[stream_id, schema_id] += size

    def write(self) -> None:
        """Write down what has come since this was done last."""
        if new := self._rows[self._written :]:
            batch.keep(self._db, new)
            self._written += len(new)
            self._until = new[-1][1]
        if not self._known:  # the disk is read in any case, when it can be
            self._unseen += len(new)
            self._empty()

    @property
    def moving(self) -> bool:
        """Whether some of it may be here and in its place at the same time: what is there must stay there."""
        return self._move is not None or not self._known

    @property
    def due(self) -> bool:
        """Whether it is time to put a slice in its place: also when a stream has ended, so that it can be sealed."""
        return (
            self.moving
            or self._at_once
            or self._size >= MOST_BYTES
            or len(self._rows) >= min(max(LEAST, EACH * len(self._streams)), MOST)
        )

    @property
    def overdue(self) -> bool:
        """Whether far more waits than may: what waits for its place must not grow for ever."""
        return self._size >= OVERDUE * MOST_BYTES or max(self._unseen, len(self._rows)) >= OVERDUE * MOST

    def settle(self) -> int:
        """Put a slice in its place in the log, or take one from here that is there. Of how many messages."""
        move = self._move or self._begin()
        part = move.slices.popleft() if move.slices else ()
        self._place(part)
        self._unseen = max(0, self._unseen - len(part))
        if not move.slices and len(part) < SLICE:
            self._take_away(move)
        return len(part)

    def _begin(self) -> _Move:
        if not self._known:
            self._look()
        (first,) = self._db.execute("SELECT MIN(last_frame) FROM arrived").fetchone()
        stride = 4 * max(min(SLICE, SLICE_BYTES * max(len(self._rows), 1) // max(self._size, 1)), 1)
        self._rows.sort()
        slices = deque(batch.parts(self._rows, SLICE, SLICE_BYTES))
        self._move = _Move(slices, self._reports, self._bytes, stride, (first or 1) - 1, self._until)
        self._empty()
        return self._move

    def _look(self) -> None:
        """See what an earlier life, or something that was undone, left here, perhaps half-way: the oldest of it."""
        rows, self._until, self._known = batch.oldest(self._db, MOST, MOST_BYTES)
        for row in map(Row._make, rows):
            place = row.place if is_sound(row) else where_it_belongs(row)  # at that of another both would be lost
            self.put((place, *row[1:]), SOME_SCHEMA)
        query = "SELECT id FROM streams WHERE finished IS NOT NULL AND id IN (SELECT value FROM json_each(?))"
        for (stream_id,) in self._db.execute(query, (json.dumps([*self._streams]),)).fetchall():
            self._sealer.ended(stream_id)

    def _place(self, part: Sequence[Plain]) -> None:
        placed = insert(self._db, "log", Row._fields, part, known="IGNORE")
        if placed < len(part):  # some were there before the collector was killed half-way; nothing must wait for ever
            self._say_what_is_twice(part)

    def _say_what_is_twice(self, part: Sequence[Plain]) -> None:
        places = json.dumps([place for place, *_ in part])
        there = dict(
            self._db.execute("SELECT place, frame FROM log WHERE place IN (SELECT value FROM json_each(?))", (places,))
        )
        if twice := sum(there[place] != frame for place, frame, *_ in part):
            event("store.kept_once", logging.ERROR, reports=twice, remedy="probe-collector doctor")

    def _take_away(self, move: _Move) -> None:
        move.gone = min(move.gone + move.stride, move.until)
        self._db.execute("DELETE FROM arrived WHERE last_frame <= ?", (move.gone,))
        if move.gone < move.until:
            return
        for (stream_id, schema_id), count in move.reports.items():
            self._sealer.arrived(stream_id, schema_id, count, move.bytes[stream_id, schema_id])
        self._move = None
