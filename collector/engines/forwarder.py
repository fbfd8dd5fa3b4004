"""Forwarder: fills an engine from a store, series by series in the order of commit; killed and started again it goes on where it was.

The store is only read, so a slow or dying engine holds up nobody. What the engine has is the engine's to say: the forwarder remembers
nothing.
"""

import logging
import time
from typing import final

from collector.engines.engine import Curve, Engine, Unfit
from collector.log import event
from collector.store.queries import Points, Reader, RunRow
from collector.store.series_groups import groups
from collector.store.timeline import Timeline

BATCH = 50_000
"""Points of one transaction."""
LOOK_AGAIN_SECONDS = 600.0
"""After so long the transitions of runs of which nothing was heard are handed over again: after an upgrade they are judged again."""


@final
class Forwarder:
    """See the module.

    Attributes:
        points: how many it has handed over.
        missed: how many were thinned before it came to them; at most a block of each series too many.
    """

    def __init__(self, reader: Reader, engine: Engine) -> None:
        self.points = 0
        self.missed = 0
        self._reader = reader
        self._engine = engine
        self._done: dict[str, tuple[float, int, float | None]] = {}
        """When each run was last heard, how many reports it had and when it was thinned, as of when it was done."""
        self._timeline: Timeline = ()
        """Of the store that the engine is filled from, as it was when that joined."""
        self._given_up: dict[str, int] = {}
        """Of runs of which points were missed: up to which frame; one that is resumed goes on behind it."""
        self._look_again_at = time.monotonic() + LOOK_AGAIN_SECONDS

    def round(self) -> int:
        """Hand over what is new; returns how many points that was.

        Raises:
            StoreError: the store cannot be read.
            Exception: the engine's own; what it had taken before stays taken.
        """
        self._join()
        before = self.points
        again = time.monotonic() >= self._look_again_at
        for run in reversed(self._reader.runs()):  # the longest unheard first: retention comes for it first
            state = (run.last_heard, run.reports, run.thinned_at)
            new = self._done.get(run.id) != state
            if not (new or again):
                continue
            try:
                self._put_run(run)
                if new and self._forward(run):
                    self._done[run.id] = state
            except Unfit as error:  # it must not hold up the others
                event("forward.unfit", logging.WARNING, run=run.id, error=str(error))
                self._done[run.id] = state
        if again:
            self._look_again_at = time.monotonic() + LOOK_AGAIN_SECONDS
        return self.points - before

    def _join(self) -> None:
        """See that the engine knows which store this is, which is another one when a copy was put in its place."""
        timeline, newest = self._reader.timeline()
        if timeline == self._timeline:
            return
        source = self._engine.join(timeline, newest)
        self._timeline = timeline
        self._done.clear()
        self._given_up.clear()
        if source.like is not None:
            event(
                "forward.store_was_restored",
                logging.WARNING,
                same_until=source.same_until,
                store=source.number,
                before=source.like,
                reason="an older copy of the store was put back: what came after its last frame in common with the database is handed over; "
                "what only the database has stays there",
            )
        elif source.new and source.number:
            reason = "the database is filled from other stores too, and each is kept apart from the others"
            event("forward.another_store", store=source.number, reason=reason)

    def _put_run(self, run: RunRow) -> None:
        self._engine.put_run(run, self._reader.quantities(run.id), self._reader.transitions(run.id))

    def _forward(self, run: RunRow) -> bool:
        """Hand over the points of a run; False where retention came in between, and it must be looked at again."""
        cursors = self._engine.cursors(run.id)
        newest = self._reader.last_frame()
        curves = {row.id: Curve.of(run.id, row.rank, row.quantity, row.labels) for row in self._reader.series(run.id)}
        after: dict[int, list[int]] = {}
        for series_id, curve in curves.items():
            after.setdefault(max(cursors.get(curve, 0), self._given_up.get(run.id, 0)), []).append(series_id)
        missed = 0
        for frame, series_ids in after.items():
            for group in groups(series_ids, run.reports):
                for series_id, points in self._reader.points(group, frame).items():
                    if not points.folded:
                        self._put(curves[series_id], points)
                    elif run.thinned_at is None:
                        return False
                    else:  # the extremes that are left of it are not its points
                        missed += points.folded + len(points.frame)
        if missed:
            self.missed += missed
            self._given_up[run.id] = newest
            event(
                "forward.missed",
                logging.WARNING,
                run=run.id,
                points=missed,
                reason="thinned before they were forwarded",
            )
        return True

    def _put(self, curve: Curve, points: Points) -> None:
        for begin in range(0, len(points.frame), BATCH):
            part = slice(begin, begin + BATCH)
            self._engine.put_points(
                curve,
                Points(
                    points.frame[part],
                    points.step[part],
                    points.value[part],
                    points.stderr[part],
                    points.paired[part],
                    points.n[part],
                    points.outcome[part],
                ),
            )
        self.points += len(points.frame)
