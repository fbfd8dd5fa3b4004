"""Batch: messages that came together as one row, where they wait to be put in their place in the log.

A row for each would have SQLite change a page of every index for every message; as one they are written once, one after another.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collector.store.log import Row, checksum, sound

WHERE: np.dtype[Any] = np.dtype(
    [("place", "<i8"), ("frame", "<i8"), ("step", "<i8"), ("received_at", "<f8"), ("size", "<i8")]
)
"""Where each message of a batch stands, as in the log, and its bytes."""
NOBODYS = -1
"""The place of a message of a run that was dropped."""
MOST_BYTES = 4 * 2**20
"""Of a batch, unless a message is larger."""
_BATCHES = "SELECT last_frame, places, LENGTH(bodies), crcs FROM arrived"

Plain = tuple[int, int, int, float, bytes, int | None]
"""A `Row` of which there are many: the garbage collector does not look at such tuples again and again."""


def keep(db: sqlite3.Connection, rows: Sequence[Plain]) -> None:
    """Write messages that came together, in order."""
    for part in parts(rows, len(rows), MOST_BYTES):
        where = np.array([(*row[:4], len(row[4])) for row in part], WHERE)
        bodies = b"".join([row[4] for row in part])
        crcs = np.array([row[5] for row in part], "<u4")
        db.execute("INSERT INTO arrived VALUES (?, ?, ?, ?)", (part[-1][1], where.tobytes(), bodies, crcs.tobytes()))


def parts(rows: Sequence[Plain], most: int, most_bytes: int) -> Iterator[Sequence[Plain]]:
    """Messages in order, at the most so many and so many bytes at a time; one that is larger by itself."""
    begin = size = 0
    for end, row in enumerate(rows):
        size += len(row[4])
        if end > begin and (size > most_bytes or end - begin == most):
            yield rows[begin:end]
            begin, size = end, len(row[4])
    if rows:
        yield rows[begin:]


def oldest(db: sqlite3.Connection, most: int, most_bytes: int) -> tuple[list[Plain], int, bool]:
    """The messages of the oldest batches, about so many at the most, the last frame of those batches, and whether they are all there are.

    Those of which a bit has changed are among them, with the checksum that says so.
    """
    found: list[Plain] = []
    size = until = 0
    with closing(db.execute(f"{_BATCHES} ORDER BY last_frame")) as batches:
        for last_frame, places, length, crcs in batches:
            if len(found) >= most or size >= most_bytes:
                return found, until, False
            where = _where(db, last_frame, places, length, crcs)
            found += _messages(db, last_frame, where, np.flatnonzero(where["place"] != NOBODYS), crcs)
            size += length
            until = last_frame
    return found, until, True


def disown(db: sqlite3.Connection, stream_ids: Collection[int]) -> None:
    """Make the messages of streams that are taken away nobody's, for a stream to come may have their number; they go with their batch."""
    for last_frame, *batch in db.execute(_BATCHES).fetchall():
        where = _where(db, last_frame, *batch).copy()
        if (gone := _of(where, stream_ids)).any():
            where["place"][gone] = NOBODYS
            db.execute("UPDATE arrived SET places = ? WHERE last_frame = ?", (where.tobytes(), last_frame))


def waiting(db: sqlite3.Connection, stream_ids: Collection[int], after: int = 0) -> dict[int, list[Row]]:
    """The messages of these streams beyond a frame that wait, those of each in order. What is half-way is in the log as well."""
    found: dict[int, list[Row]] = {stream_id: [] for stream_id in stream_ids}
    for last_frame, places, length, crcs in db.execute(
        f"{_BATCHES} WHERE last_frame > ? ORDER BY last_frame", (after,)
    ):
        where = _where(db, last_frame, places, length, crcs)
        chosen = np.flatnonzero((where["frame"] > after) & _of(where, stream_ids))
        for row in sound(map(Row._make, _messages(db, last_frame, where, chosen, crcs))):
            found[row.place >> 32].append(row)
    return found


_DAMAGED = "messages that wait to be put in their place are damaged"


def _where(db: sqlite3.Connection, last_frame: int, packed: bytes, length: int, crcs: bytes | None) -> NDArray[Any]:
    if len(packed) % WHERE.itemsize == 0:
        where = np.frombuffer(packed, WHERE)
        if where["size"].sum() == length:
            return where
        if crcs is not None and len(crcs) == 4 * len(where):
            (bodies,) = db.execute("SELECT bodies FROM arrived WHERE last_frame = ?", (last_frame,)).fetchone()
            return _sized(where.copy(), bodies, np.frombuffer(crcs, "<u4").tolist())
    raise sqlite3.DatabaseError(_DAMAGED)


def _sized(where: NDArray[Any], bodies: bytes, crcs: Sequence[int]) -> NDArray[Any]:
    """A batch of which one size has changed: it is that of the first message that does not hold, and is what the others leave."""
    sizes = where["size"].tolist()
    end = 0
    for i, (place, frame, step, received_at, size) in enumerate(where.tolist()):
        begin, end = end, end + size
        if size < 0 or checksum(place, frame, step, received_at, bodies[begin:end]) != crcs[i]:
            left = len(bodies) - sum(sizes) + size
            if not 0 <= left <= len(bodies) - begin:
                break
            where["size"][i] = left
            return where
    raise sqlite3.DatabaseError(_DAMAGED)


def _of(where: NDArray[Any], stream_ids: Collection[int]) -> NDArray[np.bool_]:
    return np.isin(where["place"] >> 32, np.fromiter(stream_ids, np.int64))


def _messages(
    db: sqlite3.Connection, last_frame: int, where: NDArray[Any], chosen: NDArray[np.intp], packed: bytes | None
) -> list[Plain]:
    if not len(chosen):
        return []
    if packed is None:  # an older release's
        crcs: list[int | None] = [None] * len(chosen)
    elif len(packed) == 4 * len(where):
        crcs = np.frombuffer(packed, "<u4")[chosen].tolist()
    else:
        raise sqlite3.DatabaseError(_DAMAGED)
    (bodies,) = db.execute("SELECT bodies FROM arrived WHERE last_frame = ?", (last_frame,)).fetchone()
    ends = np.cumsum(where["size"])[chosen].tolist()
    return [
        (place, frame, step, received_at, bodies[end - size : end], crc)
        for end, (place, frame, step, received_at, size), crc in zip(ends, where[chosen].tolist(), crcs, strict=True)
    ]


def unplaced(db: sqlite3.Connection, stream_ids: Collection[int]) -> NDArray[Any]:
    """Where the messages of these streams stand that wait and are not in the log yet, as `WHERE` has it."""
    where = np.concatenate([np.empty(0, WHERE), *(_where(db, *batch) for batch in db.execute(_BATCHES).fetchall())])
    where = where[_of(where, stream_ids)]
    query = "SELECT place FROM log WHERE place IN (SELECT value FROM json_each(?))"
    placed = [place for (place,) in db.execute(query, (json.dumps(where["place"].tolist()),))]
    return where[~np.isin(where["place"], placed)]
