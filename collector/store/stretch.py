"""Stretch: the points of series between two steps, in more detail than a chart of the whole run has."""

import sqlite3
from collections.abc import Sequence

import numpy as np

from collector.store.archive import READ_WHOLE, Curve, log_points
from collector.store.block import POINT, Records, unpack_places, unpack_records
from collector.store.pyramid import KEPT, folded, placed

Ends = dict[int, tuple[int, int]]
"""The first and the last step of blocks, by their first frame; a block never changes."""
MOST_ENDS = 100_000


def stretch(
    db: sqlite3.Connection, series_ids: Sequence[int], steps: tuple[int, int], most: int | None, ends: Ends
) -> dict[int, Curve]:
    """The points of each series from one step to another, both included; at most so many of each where that is said, the others counted.

    ``ends`` are remembered for who asks again and again, as a page does that looks at the end of a run: most of the work.
    """
    log = log_points(db, series_ids, 0)
    found = {}
    for series_id in series_ids:
        blocks = db.execute("SELECT first_frame, points FROM pyramid WHERE series_id = ?", (series_id,)).fetchall()
        near = []
        for first_frame, count in blocks:
            first, last = _ends(db, first_frame, ends)
            if first <= steps[1] and last >= steps[0]:
                near.append((first_frame, count))
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


def _ends(db: sqlite3.Connection, first_frame: int, known: Ends) -> tuple[int, int]:
    """The first and the last step of a block's reports."""
    if (found := known.get(first_frame)) is None:
        (places,) = db.execute("SELECT places FROM blocks WHERE first_frame = ?", (first_frame,)).fetchone()
        steps = unpack_places(places)["step"]
        if len(known) >= MOST_ENDS:
            known.clear()  # while others look: nobody counts on what is in it
        found = known[first_frame] = int(steps.min()), int(steps.max())
    return found


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
