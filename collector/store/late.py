"""Late: what an earlier life of a rank left may be delivered when a later one has long begun; its points stand before that one's.

Whoever draws a curve takes a step that is not beyond the last for training that went back, and what lies beyond it for left behind. In
the order of commit that would be the life that goes on.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from collector.store.archive import Curve
from collector.store.batch import unplaced
from collector.store.block import unpack_places
from collector.store.streams import OLDEST_FIRST, OVER

_LIVES = f"""
    SELECT run_id, rank, id, {OVER},
        (SELECT MIN(first_frame) FROM blocks b WHERE b.stream_id = s.id),
        (SELECT frame FROM log WHERE place BETWEEN s.id << 32 AND (s.id << 32) + 4294967295 ORDER BY place LIMIT 1)
    FROM streams s
    WHERE (run_id, rank) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))
    AND EXISTS (SELECT 1 FROM streams o WHERE o.run_id = s.run_id AND o.rank = s.rank AND o.id <> s.id)
    ORDER BY run_id, rank, {OLDEST_FIRST}
"""  # noqa: S608 - constants


Rank = tuple[str, int]
"""A run's id, and which rank of it."""


class Late(NamedTuple):
    """Frames of one life that came after the first of a later one, before which they stand."""

    frames: NDArray[np.int64]
    before: int


def in_order_of_lives(db: sqlite3.Connection, found: Mapping[int, Curve]) -> dict[int, tuple[Curve, bool]]:
    """Curves with the points that came late before those of the life that had begun by then, and whether there are such."""
    query = "SELECT id, run_id, rank FROM series WHERE id IN (SELECT value FROM json_each(?))"
    of = {series_id: (run_id, rank) for series_id, run_id, rank in db.execute(query, (json.dumps([*found]),))}
    late = what_came_late(db, {*of.values()})
    ordered = {}
    for series_id, curve in found.items():
        order = order_of(curve.points["frame"], late.get(of[series_id], []))
        ordered[series_id] = (curve, False) if order is None else (curve._replace(points=curve.points[order]), True)
    return ordered


def order_of(frames: NDArray[np.int64], late: Collection[Late]) -> NDArray[np.intp] | None:
    """The order in which these frames stand; None where none of them came late."""
    at = frames.astype(float)
    for place, each in enumerate(late, 1):  # in the order of their lives where they stand before the same one
        at[np.isin(frames, each.frames)] = each.before - 1 + place / (len(late) + 1)
    return None if (at == frames).all() else np.argsort(at, kind="stable")


def what_came_late(db: sqlite3.Connection, ranks: Collection[Rank]) -> dict[Rank, list[Late]]:
    """What came late of each of these ranks of runs, the earlier lives first."""
    lives = db.execute(_LIVES, (json.dumps([*ranks]),)).fetchall()
    if not lives:
        return {}
    arrived = unplaced(db, [life[2] for life in lives])
    waiting = {life[2]: arrived["frame"][arrived["place"] >> 32 == life[2]] for life in lives}
    return {
        of: late
        for of, group in groupby(lives, lambda life: (life[0], life[1]))
        if (late := [*_late_of(db, [life[2:] for life in group], waiting)])
    }


def _late_of(
    db: sqlite3.Connection,
    lives: list[tuple[int, int, int | None, int | None]],
    waiting: Mapping[int, NDArray[np.int64]],
) -> Iterator[Late]:
    first = [
        min([each for each in firsts if each is not None] + waiting[id_].tolist(), default=None)
        for id_, _, *firsts in lives
    ]
    for i, (stream_id, over, *_) in enumerate(lives):
        later = [each for each in first[i + 1 :] if each is not None]
        if over and later:
            frames = _frames(db, stream_id, min(later), waiting[stream_id])
            if len(frames):
                yield Late(frames, min(later))


def _frames(db: sqlite3.Connection, stream_id: int, after: int, waiting: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frames of a life beyond one."""
    blocks = db.execute("SELECT places FROM blocks WHERE stream_id = ? AND last_frame > ?", (stream_id, after))
    log = db.execute(
        "SELECT frame FROM log WHERE place BETWEEN ? AND ? AND frame > ?",
        (stream_id << 32, (stream_id << 32) + 2**32 - 1, after),
    )
    parts = [unpack_places(places)["frame"] for (places,) in blocks]
    found = np.concatenate([*parts, np.array([frame for (frame,) in log], np.int64), waiting])
    return found[found > after]
