"""Stretch: the points of series between two steps, in more detail than a chart of the whole run has."""

import sqlite3
from collections.abc import Sequence

import numpy as np

from collector.store.archive import READ_WHOLE, Curve, log_points
from collector.store.block import POINT, Records, unpack_places, unpack_records
from collector.store.pyramid import KEPT, folded, placed


def stretch(
    db: sqlite3.Connection, series_ids: Sequence[int], steps: tuple[int, int], most: int | None
) -> dict[int, Curve]:
    """The points of each series from one step to another, both included; at most so many of each where that is said, the others counted."""
    log = log_points(db, series_ids, 0)
    spans: dict[int, tuple[int, int]] = {}
    found = {}
    for series_id in series_ids:
        blocks = db.execute("SELECT first_frame, points FROM pyramid WHERE series_id = ?", (series_id,)).fetchall()
        for first_frame, _ in blocks:
            if first_frame not in spans:
                spans[first_frame] = _span(db, first_frame)
        near = [
            (first_frame, count)
            for first_frame, count in blocks
            if spans[first_frame][0] <= steps[1] and spans[first_frame][1] >= steps[0]
        ]
        whole = sum(count for _, count in near) <= READ_WHOLE
        parts = [_within(part, steps) for part in log.get(series_id, [])]
        left_out = 0
        for first_frame, count in near:
            part = _points(db, series_id, first_frame, whole=whole)
            left_out += count - len(part)  # of a block that lies across an end also those beyond it
            parts.append(_within(part, steps))
        points = np.frombuffer(b"".join(part.tobytes() for part in parts), KEPT)
        points = points[np.argsort(points["frame"], kind="stable")]
        shown = points if most is None else folded(points, most)
        found[series_id] = Curve(shown, left_out + len(points) - len(shown))
    return found


def _span(db: sqlite3.Connection, first_frame: int) -> tuple[int, int]:
    """The first and the last step of a block's reports."""
    (places,) = db.execute("SELECT places FROM blocks WHERE first_frame = ?", (first_frame,)).fetchone()
    found = unpack_places(places)["step"]
    return int(found.min()), int(found.max())


def _points(db: sqlite3.Connection, series_id: int, first_frame: int, *, whole: bool) -> Records:
    """Of a series in a block all, or, where that would be too much or they were thinned, those that a chart must not lose."""
    kept, chunk, places = db.execute(
        "SELECT p.body, c.body, b.places FROM pyramid p JOIN blocks b ON b.first_frame = p.first_frame "
        "LEFT JOIN chunks c ON c.series_id = p.series_id AND c.first_frame = p.first_frame "
        "WHERE p.series_id = ? AND p.first_frame = ?",
        (series_id, first_frame),
    ).fetchone()
    if whole and chunk is not None:
        return placed(unpack_records(chunk, POINT), unpack_places(places))
    return np.frombuffer(kept, KEPT)


def _within(points: Records, steps: tuple[int, int]) -> Records:
    return points[(points["step"] >= steps[0]) & (points["step"] <= steps[1])]
