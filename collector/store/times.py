"""Times: when reports of a run were made and how long its job had run by then. Of a long run some, between which a chart draws its axis."""

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from collector.store.batch import waiting
from collector.store.block import POINT, Frames, join, unpack_places, unpack_rows
from collector.store.late import order_of, what_came_late
from collector.store.log import Row, messages
from probe_wire import Report, decode_for_collector

MOST_BLOCKS = 128
"""Of a life are opened: of a million reports every eighth."""
LEAST = 8
"""Of a life, however many there are."""
MOST_SECONDS = 1e11
"""What a report says beyond that, or a NaN, is no time: see `probe_wire.Hello`."""


class Moment(NamedTuple):
    """One report: when it was made, Unix seconds, and for how many seconds that life of the job had run by then."""

    frame: int
    step: int
    life: int
    time: float
    ran: float


def moments(db: sqlite3.Connection, run_id: str, after: int, most: int) -> tuple[list[Moment], bool, bool]:
    """About ``most`` reports of a run's lowest rank that came beyond a frame, in order; the first and the last of each life are among them.

    They say it themselves, by the job's clock, and the second answer is True; of a run that was thinned only the collector
    knows when they came. The third is whether some came late: they stand before the life that had begun by then, see `late`.
    """
    lowest = "SELECT id, rank FROM streams WHERE run_id = :run AND rank = (SELECT MIN(rank) FROM streams WHERE run_id = :run)"
    ranks = dict(db.execute(lowest, {"run": run_id}).fetchall())
    lives = [*ranks]
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
        began = _began(db, life) if thinned else 0.0
        for first_frame, reports in (blocks[i] for i in opened):
            chosen = _spread(reports, max(share // len(opened), 2))
            found += _came(db, life, first_frame, chosen, began) if thinned else _made(db, life, first_frame, chosen)
        rows = list(messages(db, life, arrived[life], after))
        for i in sorted({*_spread(len(rows), share), *range(len(rows))[-2:]}):  # the last may be a goodbye
            told = list(_told(life, rows[i].frame, rows[i].body))
            found += [_heard(rows[i], life, began) for _ in told] if thinned else told
    found = sorted(each for each in found if each.frame > after)
    rank = (run_id, min(ranks.values(), default=0))
    late = what_came_late(db, {rank}, after).get(rank) if found else None
    order = order_of(np.array([each.frame for each in found], np.int64), late)
    return found if order is None else [found[i] for i in order.tolist()], not thinned, order is not None


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
    if not isinstance(report, Report):
        return
    ran = report.training_seconds + report.probe_seconds
    if abs(report.time) <= MOST_SECONDS and abs(ran) <= MOST_SECONDS:
        yield Moment(frame, report.step, life, report.time, ran)


def _came(db: sqlite3.Connection, life: int, first_frame: int, chosen: list[int], began: float) -> Iterator[Moment]:
    """When these reports of a block arrived, counted from the first of that life."""
    (places,) = db.execute("SELECT places FROM blocks WHERE first_frame = ?", (first_frame,)).fetchone()
    for frame, step, at in unpack_places(places)[chosen].tolist():
        yield Moment(frame, step, life, at, at - began)


def _heard(row: Row, life: int, began: float) -> Moment:
    """The same of a report that is in no block."""
    return Moment(row.frame, row.step, life, row.received_at, row.received_at - began)


def _began(db: sqlite3.Connection, life: int) -> float:
    """When the first report of a life arrived."""
    query = "SELECT places FROM blocks WHERE stream_id = ? ORDER BY first_frame LIMIT 1"
    if (block := db.execute(query, (life,)).fetchone()) is not None:
        return float(unpack_places(block[0])["received_at"][0])
    row = next(messages(db, life, waiting(db, [life])[life]), None)
    return row.received_at if row else 0.0
