"""Archive: messages and points put together again from the log, the blocks and the pyramid, in the order of commit.

All of it over one connection within one transaction: sealing in the meantime neither hides a report nor shows it twice.
"""

import heapq
import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from itertools import repeat
from typing import NamedTuple

import msgspec
import numpy as np

from collector.store.batch import waiting
from collector.store.block import (
    PLACE,
    POINT,
    Frames,
    Records,
    columns_of,
    join,
    unpack_places,
    unpack_records,
    unpack_rows,
)
from collector.store.log import Row, messages, reports_by_schema, series_of
from collector.store.pyramid import KEPT, folded, placed
from probe_wire import Goodbye, Report, Schema, decode_for_collector

READ_WHOLE = 2**15
"""Points that a chart reads one by one; of more than these the pyramid has at least 128 buckets to show."""


HELD_BYTES = 64 * 2**20
"""Of a run's messages held at a time, about, while they are put in order: a run of thousands of ranks is read slower, not larger."""
LEAST_HELD = 8
MESSAGE_BYTES = 300
"""Of a message beside its columns, about."""


class StoredFrame(msgspec.Struct, frozen=True):
    """One committed message with what is needed to read it again."""

    id: int
    stream_id: int
    rank: int
    received_at: float
    message: Report | Goodbye


class Curve(NamedTuple):
    """Points of one series with where they stand, and how many between them were left out."""

    points: Records
    folded: int


# -- messages -------------------------------------------------------------------------------------


def frames(db: sqlite3.Connection, run_id: str, after: int = 0) -> Iterator[StoredFrame]:
    """Every committed message of a run beyond a frame in the order of commit, but for those that were thinned."""
    ranks = dict(db.execute("SELECT id, rank FROM streams WHERE run_id = ?", (run_id,)).fetchall())
    sealed = db.execute(
        "SELECT DISTINCT b.stream_id, b.schema_id FROM streams s JOIN blocks b ON b.stream_id = s.id "
        "WHERE s.run_id = ? AND b.last_frame > ?",
        (run_id, after),
    ).fetchall()
    share = HELD_BYTES // max(len(sealed), 1)
    arrived = waiting(db, ranks, after)
    parts = [_in_blocks(db, stream, schema, after, share) for stream, schema in sealed] + [
        _in_log(db, stream_id, arrived[stream_id], after) for stream_id in ranks
    ]
    for frame_id, stream_id, received_at, body in heapq.merge(*parts):
        if frame_id <= after:
            continue
        message = decode_for_collector(body)
        assert isinstance(message, Report | Goodbye)  # noqa: S101 - nothing else is numbered
        yield StoredFrame(frame_id, stream_id, ranks[stream_id], received_at, message)


_Message = tuple[int, int, float, bytes]


def _in_log(db: sqlite3.Connection, stream_id: int, arrived: list[Row], after: int) -> Iterator[_Message]:
    return ((row.frame, stream_id, row.received_at, row.body) for row in messages(db, stream_id, arrived, after))


def _in_blocks(db: sqlite3.Connection, stream_id: int, schema_id: int, after: int, share: int) -> Iterator[_Message]:
    """The messages of a stream's blocks of one schema, of which it holds about ``share`` bytes: a block is read once for each such part."""
    series_ids = series_of(db, stream_id, schema_id)
    most = max(LEAST_HELD, share // (MESSAGE_BYTES + POINT.itemsize * len(series_ids)))
    blocks = db.execute(
        "SELECT first_frame, reports FROM blocks WHERE stream_id = ? AND schema_id = ? AND last_frame > ? ORDER BY first_frame",
        (stream_id, schema_id, after),
    )
    for first_frame, reports in blocks:
        passed = sum(frame <= after for frame in _frame_ids(db, first_frame)) if first_frame <= after else 0
        for begin in range(passed, reports, most):
            part = slice(begin, begin + most)
            bodies = block_bodies(db, first_frame, series_ids, part)
            if bodies is None:
                break
            (packed,) = db.execute("SELECT places FROM blocks WHERE first_frame = ?", (first_frame,)).fetchone()
            places = unpack_places(packed)[part]
            frame_ids, received_at = places["frame"].tolist(), places["received_at"].tolist()
            del places
            yield from zip(frame_ids, repeat(stream_id), received_at, bodies, strict=False)


def _frame_ids(db: sqlite3.Connection, first_frame: int) -> list[int]:
    (packed,) = db.execute("SELECT places FROM blocks WHERE first_frame = ?", (first_frame,)).fetchone()
    found: list[int] = unpack_places(packed)["frame"].tolist()
    return found


def block_bodies(
    db: sqlite3.Connection, first_frame: int, series_ids: Sequence[int], part: slice = slice(None)
) -> list[bytes] | None:
    """The messages of a block, or of a part of it, as they came; None where it was thinned."""
    reports, envelopes = db.execute(
        "SELECT reports, envelopes FROM blocks WHERE first_frame = ?", (first_frame,)
    ).fetchone()
    points = np.empty((reports, len(series_ids)), POINT)
    for i, series_id in enumerate(series_ids):
        chunk = db.execute(
            "SELECT body FROM chunks WHERE series_id = ? AND first_frame = ?", (series_id, first_frame)
        ).fetchone()
        if chunk is None:
            return None
        points[:, i] = unpack_records(chunk[0], POINT)
    rows = unpack_rows(envelopes)
    return join(Frames(rows[:reports][part], rows[reports:][part], points[part]))


# -- points ---------------------------------------------------------------------------------------


def curves(
    db: sqlite3.Connection, series_ids: Sequence[int], after: int = 0, most: int | None = None
) -> dict[int, Curve]:
    """The points of each series that came in frames numbered beyond ``after``; at most so many of each, where that is said."""
    log = log_points(db, series_ids, after)
    return {series_id: _curve(db, series_id, log.get(series_id, []), after, most) for series_id in series_ids}


def _curve(db: sqlite3.Connection, series_id: int, log: Sequence[Records], after: int, most: int | None) -> Curve:
    (sealed,) = db.execute(
        "SELECT COALESCE(SUM(points), 0) FROM pyramid WHERE series_id = ? AND last_frame > ?", (series_id, after)
    ).fetchone()
    fold = most is not None and sealed + sum(map(len, log)) > READ_WHOLE
    whole_until = after if fold else 2**63 - 1
    parts, left_out = list(log), 0
    for count, kept, chunk, places in db.execute(_WHOLE, (series_id, after, whole_until)):
        if chunk is None:  # thinned
            parts.append(np.frombuffer(kept, KEPT))
            left_out += count - len(parts[-1])
        else:
            parts.append(placed(unpack_records(chunk, POINT), unpack_places(places)))
    if fold:
        rows = db.execute(
            "SELECT points, body FROM pyramid WHERE series_id = ? AND first_frame > ?", (series_id, whole_until)
        ).fetchall()
        parts.append(np.frombuffer(b"".join(body for _, body in rows), KEPT))
        left_out += sum(count for count, _ in rows) - len(parts[-1])
    points = np.frombuffer(b"".join(part.tobytes() for part in parts), KEPT)  # far faster than numpy joins records
    if (points["frame"] <= after).any():
        points = points[points["frame"] > after]
    if (np.diff(points["frame"]) < 0).any():
        points = points[np.argsort(points["frame"])]
    shown = points if most is None else folded(points, most)
    return Curve(shown, left_out + len(points) - len(shown))


_WHOLE = """
    SELECT p.points, p.body, c.body, b.places
    FROM pyramid p
    JOIN blocks b ON b.first_frame = p.first_frame
    LEFT JOIN chunks c ON c.series_id = p.series_id AND c.first_frame = p.first_frame
    WHERE p.series_id = ? AND p.last_frame > ? AND p.first_frame <= ?
"""


def log_points(db: sqlite3.Connection, series_ids: Sequence[int], after: int) -> dict[int, list[Records]]:
    """What the log has of each series, in parts of which each is in order."""
    wanted = {
        (run_id, rank, quantity, labels): series_id
        for series_id, run_id, rank, quantity, labels in db.execute(
            "SELECT id, run_id, rank, quantity, labels FROM series WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(series_ids)),),
        )
    }
    found: dict[int, list[Records]] = {}
    streams = {
        stream_id: (run_id, rank)
        for run_id, rank in {key[:2] for key in wanted}
        for (stream_id,) in db.execute("SELECT id FROM streams WHERE run_id = ? AND rank = ?", (run_id, rank))
    }
    quantities = {quantity for _, _, quantity, _ in wanted}
    known: dict[bytes, _Named] = {}  # most lives and ranks say the same
    for stream_id, arrived in waiting(db, streams, after).items():
        for schema_id, group in reports_by_schema(messages(db, stream_id, arrived, after)).items():
            (schema,) = db.execute(
                "SELECT body FROM schemas WHERE stream_id = ? AND id = ?", (stream_id, schema_id)
            ).fetchone()
            digest = blake2b(schema).digest()  # those of thousands of ranks are not held
            if digest not in known:
                known[digest] = _named(schema, quantities)
            columns, named = known[digest]
            keys = ((i, (*streams[stream_id], quantity, labels)) for i, quantity, labels in named)
            chosen = [(i, wanted[key]) for i, key in keys if key in wanted]
            if not chosen:
                continue
            points = columns_of([row.body for row in group], columns)
            places = np.array([row[1:4] for row in group], PLACE)
            for i, series_id in chosen:
                found.setdefault(series_id, []).append(placed(points[:, i], places))
    return found


_Named = tuple[int, list[tuple[int, str, str]]]
"""How many columns a schema has, and of which quantities, with which labels, those are that may be asked for."""


def _named(body: bytes, quantities: Collection[str]) -> _Named:
    if not any(quantity.encode() in body for quantity in quantities):  # far quicker than to read it
        return 0, []
    schema = decode_for_collector(body)
    assert isinstance(schema, Schema)  # noqa: S101 - the table holds nothing else
    found = [
        (i, column.quantity, json.dumps(column.labels, sort_keys=True))
        for i, column in enumerate(schema.columns)
        if column.quantity in quantities
    ]
    return len(schema.columns), found
