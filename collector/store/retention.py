"""Retention: what is taken away when runs grow old or the store grows large, a little at a time, counted and logged.

Only runs that are over are touched: every rank has said goodbye, or nothing was heard for thirty days. A run is first thinned: its
reports go, and of its curves the extremes stay (see `pyramid.py`). A whole run is dropped only where the store is still too large.
Short runs have nothing to thin: their reports take no more room than a pyramid would.

What is taken away does not come back, so a clock is not believed that goes faster than time: set on by a month it would make every
living run one that nothing was heard of for so long.
"""

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import NamedTuple

from collector.log import event
from collector.store.batch import disown
from collector.store.space import bytes_of

DAY = 86_400.0
OVER_AFTER = 30 * DAY
"""Seconds of silence after which a run without a goodbye is over."""
LOOK_EVERY = 600.0
"""Seconds between two looks for runs that have grown old."""
CHUNKS = 128
"""Chunks taken away at once, about 2 MB."""
PAGES = 1000
"""Pages given back to the disk at once."""
JUMP = 3600.0
"""Seconds by which a clock that is set on is worth a word."""


_DROP = (
    "DELETE FROM pyramid WHERE series_id IN (SELECT id FROM series WHERE run_id = :run)",
    "DELETE FROM blocks WHERE stream_id IN (SELECT id FROM streams WHERE run_id = :run)",
    "DELETE FROM schemas WHERE stream_id IN (SELECT id FROM streams WHERE run_id = :run)",
    "DELETE FROM log WHERE place >> 32 IN (SELECT id FROM streams WHERE run_id = :run)",
    "DELETE FROM damaged WHERE place >> 32 IN (SELECT id FROM streams WHERE run_id = :run)",
    "DELETE FROM transitions WHERE run_id = :run",
    "DELETE FROM phase_states WHERE run_id = :run",
    "DELETE FROM live_states WHERE run_id = :run",
    "DELETE FROM quantities WHERE run_id = :run",
    "DELETE FROM series WHERE run_id = :run",
    "DELETE FROM streams WHERE run_id = :run",
    "DELETE FROM runs WHERE id = :run",
)


class Policy(NamedTuple):
    """Runs are thinned when they are this old, and thinned and then dropped, the oldest first, while the store is larger; 0: never."""

    keep_days: float = 0.0
    max_bytes: int = 0


class Victim(NamedTuple):
    """A run that is being taken away."""

    run_id: str
    dropped: bool
    """All of it, and not only what can be thinned."""


def _uptime() -> float:
    """Seconds that have gone by, those of a machine that slept among them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Retention:
    """Applies a policy; each `step` works within the caller's transaction and is short.

    Args:
        db: the store.
        policy: what may go.
        uptime: seconds, whatever becomes of the wall's clock.
    """

    def __init__(self, db: sqlite3.Connection, policy: Policy, uptime: Callable[[], float] = _uptime) -> None:
        self._db = db
        self._policy = policy
        self._uptime = uptime
        self._began: float | None = None
        self._told_of_jump = False
        self._victim: Victim | None = None
        self._look_at = 0.0

    def wants(self, now: float) -> bool:
        """Whether there may be something to do."""
        return self._policy != Policy() and (self._victim is not None or now >= self._look_at)

    def forget(self) -> None:
        """The transaction was rolled back: look again."""
        self._victim, self._look_at = None, 0.0

    def step(self, now: float) -> list[str]:
        """Take away a little. Returns the run that is gone with it, by its id."""
        victim = self._victim = self._victim or self._choose(now)
        if victim is None:
            self._look_at = now + LOOK_EVERY
        elif not self._take_chunks(victim.run_id):
            self._victim = None
            if victim.dropped:
                self._drop(victim.run_id, now)
                return [victim.run_id]
            self._finish_thinning(victim.run_id)
        return []

    def give_back(self) -> None:
        """Return free pages to the disk, where the file was made to do so (see `compaction`)."""
        if self._policy != Policy():
            self._db.executescript(f"PRAGMA incremental_vacuum({PAGES})")  # `execute` would step it once: one page

    def _believed(self, now: float) -> float:
        """The time, but no later than the first that was heard and what has gone by since."""
        uptime = self._uptime()
        if self._began is None:
            self._began = now - uptime
        latest = self._began + uptime
        if now > latest + JUMP and not self._told_of_jump:
            self._told_of_jump = True
            remedy = "nothing grows old by it; restart the collector if it is right now"
            event("store.clock_set_on", logging.WARNING, seconds=round(now - latest), remedy=remedy)
        return min(now, latest)

    def _choose(self, now: float) -> Victim | None:
        now = self._believed(now)
        old = now - self._policy.keep_days * DAY if self._policy.keep_days else 0.0
        too_large = bool(self._policy.max_bytes) and bytes_of(self._db)[0] > self._policy.max_bytes
        over = self._db.execute(
            """
            SELECT r.id, r.last_heard,
                EXISTS (SELECT 1 FROM series s JOIN chunks c ON c.series_id = s.id WHERE s.run_id = r.id)
            FROM runs r
            WHERE r.last_heard < ? OR NOT EXISTS (SELECT 1 FROM streams s WHERE s.run_id = r.id AND s.finished IS NULL)
            ORDER BY r.last_heard
            """,
            (now - OVER_AFTER,),
        ).fetchall()
        for run_id, last_heard, whole in over:
            if whole and (too_large or last_heard < old):
                self._db.execute("UPDATE runs SET thinned_at = ? WHERE id = ?", (now, run_id))
                return Victim(run_id, dropped=False)
        if too_large and over:
            return Victim(over[0][0], dropped=True)
        if too_large:
            event("store.too_large", bytes=bytes_of(self._db)[0], max_bytes=self._policy.max_bytes)
        return None

    def _take_chunks(self, run_id: str) -> bool:
        """Whether there were any."""
        taken = self._db.execute(
            "DELETE FROM chunks WHERE rowid IN (SELECT c.rowid FROM series s JOIN chunks c ON c.series_id = s.id "
            "WHERE s.run_id = ? LIMIT ?)",
            (run_id, CHUNKS),
        )
        return taken.rowcount > 0

    def _finish_thinning(self, run_id: str) -> None:
        thinned = self._db.execute(
            "UPDATE blocks SET envelopes = x'' WHERE stream_id IN (SELECT id FROM streams WHERE run_id = ?) AND envelopes <> x''",
            (run_id,),
        )
        event("store.thinned", run=run_id, blocks=thinned.rowcount)

    def _drop(self, run_id: str, now: float) -> None:
        self._db.execute(
            "INSERT INTO dropped_runs (run_id, name, reports, last_heard, dropped_at) SELECT r.id, r.name, "
            "(SELECT COALESCE(SUM(high - lost - (finished IS NOT NULL)), 0) FROM streams s WHERE s.run_id = r.id), r.last_heard, ? "
            "FROM runs r WHERE r.id = ?",
            (now, run_id),
        )
        streams = [stream_id for (stream_id,) in self._db.execute("SELECT id FROM streams WHERE run_id = ?", (run_id,))]
        disown(self._db, streams)
        for statement in _DROP:
            self._db.execute(statement, {"run": run_id})
        event("store.dropped", run=run_id)
