"""Log: messages as they came and are in no block yet, and which series their columns are.

Each has a checksum from the moment it came; one that is not what came is read by nobody (see `damage`).
"""

import json
import logging
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import lru_cache
from typing import NamedTuple

import msgspec

from collector.log import event
from probe_wire import Schema, decode_for_collector


class Row(NamedTuple):
    """One message in the log."""

    place: int
    frame: int
    step: int
    received_at: float
    body: bytes
    crc: int | None = None
    """See `checksum`; None of what an older release kept, of which nobody knows."""


class _Report(msgspec.Struct, array_like=True, tag=3):
    """The beginning of a Report."""

    seq: int
    step: int
    time: float
    schema: int


class _Goodbye(msgspec.Struct, array_like=True, tag=4):
    """The beginning of a Goodbye."""

    seq: int


_BEGINNING: msgspec.msgpack.Decoder[_Report | _Goodbye] = msgspec.msgpack.Decoder(_Report | _Goodbye)


def place(stream_id: int, seq: int) -> int:
    """Where a message lies in the log: those of a stream side by side in order."""
    return stream_id << 32 | seq & 0xFFFFFFFF


_PLACED = struct.Struct("<qqqd").pack


def checksum(place: int, frame: int, step: int, received_at: float, body: bytes) -> int:
    """The CRC-32 of where a message stands and of its bytes: about a microsecond."""
    return zlib.crc32(body, zlib.crc32(_PLACED(place, frame, step, received_at)))


def is_sound(row: Row) -> bool:
    """Whether a message is what came, as far as anybody knows."""
    return row.crc is None or row.crc == checksum(*row[:5])


def where_it_belongs(row: Row) -> int:
    """The place of a message that does not hold: what it was before one bit of it changed, where the checksum tells, or what it says."""
    return next(
        (place for bit in range(64) if row.crc == checksum(place := _turned(row.place, bit), *row[1:5])), row.place
    )


def _turned(number: int, bit: int) -> int:
    return number ^ (1 << bit if bit < 63 else -(2**63))


@lru_cache(1024)  # once of each: charts are drawn again and again
def _tell(row: Row) -> None:
    remedy = "the collector sets it aside and counts it as lost; probe-collector doctor"
    event("store.damaged_message", logging.ERROR, stream=row.place >> 32, frame=row.frame, remedy=remedy)


def sound(rows: Iterable[Row], damaged: Callable[[Row], object] = _tell) -> Iterator[Row]:
    """Messages but for those of which a bit has changed since they came."""
    for row in rows:
        if is_sound(row):
            yield row
        else:
            damaged(row)


def messages(
    db: sqlite3.Connection,
    stream_id: int,
    arrived: Iterable[Row] = (),
    after: int = 0,
    damaged: Callable[[Row], object] = _tell,
) -> Iterator[Row]:
    """The messages of a stream beyond a frame that are in the log, in order, and of those that have ``arrived`` the ones that are not."""
    last = -1
    wanted = (place(stream_id, 0), place(stream_id, 2**32 - 1), after)
    with closing(db.execute(_OF_STREAM, wanted)) as rows:
        for row in sound(map(Row._make, rows), damaged):
            last = row.place
            yield row
    yield from (row for row in arrived if row.place > last)


_OF_STREAM = f"SELECT {', '.join(Row._fields)} FROM log WHERE place BETWEEN ? AND ? AND frame > ? ORDER BY place"  # noqa: S608 - our own names


def reports_by_schema(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """The reports among the messages of one stream by the id of their schema, in order."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        begins = _BEGINNING.decode(memoryview(row.body)[1:])  # a tenth of the time that all of it would take
        if isinstance(begins, _Report):
            groups.setdefault(begins.schema, []).append(row)
    return groups


def stored_schema(db: sqlite3.Connection, stream_id: int, schema_id: int) -> Schema:
    """A schema of a stream."""
    (body,) = db.execute("SELECT body FROM schemas WHERE stream_id = ? AND id = ?", (stream_id, schema_id)).fetchone()
    return schema_of(body)


def schema_of(body: bytes) -> Schema:
    """A schema by its message."""
    schema = decode_for_collector(body)
    assert isinstance(schema, Schema)  # noqa: S101 - the table holds nothing else
    return schema


def series_of(db: sqlite3.Connection, stream_id: int, schema_id: int) -> list[int]:
    """The store's id of the series of each column of a stream's schema."""
    run_id, rank = db.execute("SELECT run_id, rank FROM streams WHERE id = ?", (stream_id,)).fetchone()
    return [
        db.execute(
            "SELECT id FROM series WHERE run_id = ? AND rank = ? AND quantity = ? AND labels = ?",
            (run_id, rank, column.quantity, json.dumps(column.labels, sort_keys=True)),
        ).fetchone()[0]
        for column in stored_schema(db, stream_id, schema_id).columns
    ]
