"""Late: what an earlier life of a rank left may be delivered when a later one has long begun; its points stand before that one's.

Whoever draws a curve takes a step that is not beyond the last for training that went back, and what lies beyond it for left behind. In
the order of commit that would be the life that goes on.
"""

import json
import sqlite3
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from collector.store.archive import Curve
from collector.store.batch import unplaced
from collector.store.block import unpack_places
from collector.store.streams import OLDEST_FIRST

_LIVES = f"""
    SELECT run_id, rank, id, ended,
        (SELECT MIN(first_frame) FROM blocks b WHERE b.stream_id = s.id),
        (SELECT frame FROM log WHERE place BETWEEN s.id << 32 AND (s.id << 32) + 4294967295 ORDER BY place LIMIT 1)
    FROM streams s
    WHERE (run_id, rank) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))
    AND EXISTS (SELECT 1 FROM streams o WHERE o.run_id = s.run_id AND o.rank = s.rank AND o.id <> s.id)
    ORDER BY run_id, rank, {OLDEST_FIRST}
"""  # noqa: S608 - constants
_LOG = """
    SELECT l.place >> 32, l.frame FROM json_each(?) life JOIN log l
    ON l.place BETWEEN json_extract(life.value, '$[0]') << 32 AND (json_extract(life.value, '$[0]') << 32) + 4294967295
    AND l.frame > json_extract(life.value, '$[1]')
"""
_BLOCKS = """
    SELECT b.stream_id, b.places FROM json_each(?) life JOIN blocks b
    ON b.stream_id = json_extract(life.value, '$[0]') AND b.last_frame > json_extract(life.value, '$[1]')
"""


Rank = tuple[str, int]
"""A run's id, and which rank of it."""


class Late(NamedTuple):
    """Frames of a rank that came after the first of a later life, in order, and where they stand: before that one."""

    frames: NDArray[np.int64]
    at: NDArray[np.float64]


def in_order_of_lives(db: sqlite3.Connection, found: Mapping[int, Curve], after: int) -> dict[int, tuple[Curve, bool]]:
    """Curves beyond a frame with the points that came late before those of the life that had begun by then, and whether there are such."""
    query = "SELECT id, run_id, rank FROM series WHERE id IN (SELECT value FROM json_each(?))"
    some = [series_id for series_id, curve in found.items() if len(curve.points)]
    of = {series_id: (run_id, rank) for series_id, run_id, rank in db.execute(query, (json.dumps(some),))}
    late = what_came_late(db, {*of.values()}, after)
    ordered = {series_id: (curve, False) for series_id, curve in found.items()}
    for series_id, rank in of.items():
        curve = found[series_id]
        if (order := order_of(curve.points["frame"], late.get(rank))) is not None:
            ordered[series_id] = curve._replace(points=curve.points[order]), True
    return ordered


def order_of(frames: NDArray[np.int64], late: Late | None) -> NDArray[np.intp] | None:
    """The order in which these frames stand; None where none of them came late."""
    if late is None:
        return None
    nearest = np.minimum(np.searchsorted(late.frames, frames), len(late.frames) - 1)
    came_late = late.frames[nearest] == frames
    return np.argsort(np.where(came_late, late.at[nearest], frames), kind="stable") if came_late.any() else None


def what_came_late(db: sqlite3.Connection, ranks: Collection[Rank], after: int) -> dict[Rank, Late]:
    """What came late of each of these ranks of runs, and beyond a frame."""
    rows = db.execute(_LIVES, (json.dumps([*ranks]),)).fetchall() if ranks else []
    if not rows:
        return {}
    arrived = _by_stream(unplaced(db, [stream_id for _, _, stream_id, *_ in rows]))
    before: dict[Rank, dict[int, int]] = {}
    """Of lives of which somebody else delivers what they left, and that a later one followed: its first frame."""
    for of, lives in groupby(reversed(rows), lambda row: (row[0], row[1])):
        followed, began = before.setdefault(of, {}), _NEVER
        for _, _, stream_id, ended, *firsts in lives:
            if ended and began < _NEVER:
                followed[stream_id] = began
            began = int(min([began, *(each for each in firsts if each is not None), *arrived.get(stream_id, [])[:1]]))
    beyond = {stream_id: max(first, after) for followed in before.values() for stream_id, first in followed.items()}
    found = _frames(db, beyond, arrived)
    late = {of: _late(followed, found) for of, followed in before.items()}
    return {of: each for of, each in late.items() if each is not None}


_NEVER = 2**63 - 1


def _late(before: Mapping[int, int], found: Mapping[int, NDArray[np.int64]]) -> Late | None:
    """Of the lives of a rank, the last first; those that stand before the same one in their order."""
    lives = [stream_id for stream_id in reversed(before) if stream_id in found]
    if not lives:
        return None
    frames = np.concatenate([found[stream_id] for stream_id in lives])
    at = [before[stream_id] - 1 + place / (len(lives) + 1) for place, stream_id in enumerate(lives, 1)]
    in_order = np.argsort(frames)
    return Late(frames[in_order], np.repeat(at, [len(found[stream_id]) for stream_id in lives])[in_order])


def _frames(
    db: sqlite3.Connection, beyond: Mapping[int, int], arrived: Mapping[int, NDArray[np.int64]]
) -> dict[int, NDArray[np.int64]]:
    """The frames of each of these streams beyond one, where there are any."""
    wanted = (json.dumps([*beyond.items()]),)
    parts = {stream_id: [frames] for stream_id, frames in arrived.items() if stream_id in beyond}
    for stream_id, frame in db.execute(_LOG, wanted):
        parts.setdefault(stream_id, []).append(np.array([frame], np.int64))
    for stream_id, places in db.execute(_BLOCKS, wanted):
        parts.setdefault(stream_id, []).append(unpack_places(places)["frame"])
    found = {stream_id: np.concatenate(each) for stream_id, each in parts.items()}
    late = {stream_id: frames[frames > beyond[stream_id]] for stream_id, frames in found.items()}
    return {stream_id: frames for stream_id, frames in late.items() if len(frames)}


def _by_stream(where: NDArray[Any]) -> dict[int, NDArray[np.int64]]:
    """Frames of messages by their stream, in order."""
    where = where[np.argsort(where["place"] >> 32, kind="stable")]
    ids, begins = np.unique(where["place"] >> 32, return_index=True)
    return dict(zip(ids.tolist(), np.split(where["frame"], begins[1:]), strict=False))
