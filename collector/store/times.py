"""Times: when reports of a run were made and how long its job had run by then. Of a long run some, between which a chart draws its axis."""

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from collector.store.batch import waiting
from collector.store.block import POINT, Frames, Records, join, unpack_places, unpack_rows
from collector.store.log import messages
from probe_wire import Report, decode_for_collector

MOST_BLOCKS = 128
"""Of a life are opened: of a million reports every eighth."""
LEAST = 8
"""Of a life, however many there are."""


class Moment(NamedTuple):
    """One report: when it was made, Unix seconds, and for how many seconds that life of the job had run by then."""

    frame: int
    step: int
    life: int
    time: float
    ran: float


def moments(db: sqlite3.Connection, run_id: str, after: int, most: int) -> tuple[list[Moment], bool]:
    """About ``most`` reports of a run's lowest rank that came beyond a frame, in order; the first and the last of each life are among them.

    They say it themselves, by the job's clock, and the second answer is True; of a run that was thinned only the collector
    knows when they came.
    """
    lowest = "SELECT id FROM streams WHERE run_id = :run AND rank = (SELECT MIN(rank) FROM streams WHERE run_id = :run)"
    lives = [life for (life,) in db.execute(lowest, {"run": run_id})]
    (thinned,) = db.execute("SELECT COUNT(thinned_at) FROM runs WHERE id = ?", (run_id,)).fetchone()
    share = max(most // max(len(lives), 1), LEAST)
    arrived = waiting(db, lives, after)
    found: list[Moment] = []
    for life in lives:
        blocks = db.execute(
            "SELECT first_frame, reports FROM blocks WHERE stream_id = ? AND last_frame > ? ORDER BY first_frame",
            (life, after),
        ).fetchall()
        opened = _spread(len(blocks), MOST_BLOCKS)
        for first_frame, reports in (blocks[i] for i in opened):
            chosen = _spread(reports, max(share // len(opened), 2))
            found += (_came if thinned else _made)(db, life, first_frame, chosen)
        rows = list(messages(db, life, arrived[life], after))
        for i in sorted({*_spread(len(rows), share), *range(len(rows))[-2:]}):  # the last may be a goodbye
            found += _told(life, rows[i].frame, rows[i].body)
    return sorted(each for each in found if each.frame > after), not thinned


def _spread(count: int, most: int) -> list[int]:
    """At the most so many of the numbers below ``count``, evenly, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []


def _made(db: sqlite3.Connection, life: int, first_frame: int, chosen: list[int]) -> Iterator[Moment]:
    """When these reports of a block were made."""
    places, envelopes = db.execute(
        "SELECT places, envelopes FROM blocks WHERE first_frame = ?", (first_frame,)
    ).fetchone()
    frames = unpack_places(places)["frame"][chosen].tolist()
    rows = unpack_rows(envelopes)
    heads, tails = ([rows[i + offset] for i in chosen] for offset in (0, len(rows) // 2))
    bodies = join(Frames(heads, tails, np.empty((len(chosen), 0), POINT)))  # a message is whole without its columns
    for frame, body in zip(frames, bodies, strict=True):
        yield from _told(life, frame, body)


def _told(life: int, frame: int, body: bytes) -> Iterator[Moment]:
    report = decode_for_collector(body)
    if isinstance(report, Report):
        yield Moment(frame, report.step, life, report.time, report.training_seconds + report.probe_seconds)


def _came(db: sqlite3.Connection, life: int, first_frame: int, chosen: list[int]) -> Iterator[Moment]:
    """When these reports of a block arrived, counted from the first of that life."""
    first = "SELECT places FROM blocks WHERE stream_id = ? ORDER BY first_frame LIMIT 1"
    began = _places(db, first, life)["received_at"][0]
    for frame, step, at in _places(db, "SELECT places FROM blocks WHERE first_frame = ?", first_frame)[chosen].tolist():
        yield Moment(frame, step, life, at, at - float(began))


def _places(db: sqlite3.Connection, query: str, of: int) -> Records:
    return unpack_places(db.execute(query, (of,)).fetchone()[0])
