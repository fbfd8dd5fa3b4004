"""Forwarder: fills an engine from a store, series by series in the order of commit; killed and started again it goes on where it was.

The store is only read, so a slow or dying engine holds up nobody. What the engine has is the engine's to say: the forwarder remembers
nothing.
"""

import logging
from typing import final

from collector.engines.engine import Curve, Engine, Unfit
from collector.log import event
from collector.store.queries import Points, Reader, RunRow

BATCH = 50_000
"""Points of one transaction."""


@final
class Forwarder:
    """See the module.

    Attributes:
        points: how many it has handed over.
    """

    def __init__(self, reader: Reader, engine: Engine) -> None:
        self.points = 0
        self._reader = reader
        self._engine = engine
        self._heard: dict[
            str, tuple[float, int]
        ] = {}  # when each run was last heard and how many reports it had when it was done

    def round(self) -> int:
        """Hand over what is new; returns how many points that was.

        Raises:
            StoreError: the store cannot be read.
            Exception: the engine's own; what it had taken before stays taken.
        """
        before = self.points
        for run in reversed(self._reader.runs()):  # the longest unheard first: retention comes for it first
            state = (run.last_heard, run.reports)
            if self._heard.get(run.id) != state:
                try:
                    self._forward(run)
                except Unfit as error:  # it must not hold up the others
                    event("forward.unfit", logging.WARNING, run=run.id, error=str(error))
                self._heard[run.id] = state
        return self.points - before

    def _forward(self, run: RunRow) -> None:
        self._engine.put_run(run, self._reader.quantities(run.id), self._reader.transitions(run.id))
        if run.thinned_at is not None:
            event("forward.thinned", run=run.id)  # the extremes that are left of it are not its points
            return
        cursors = self._engine.cursors(run.id)
        for series in self._reader.series(run.id):
            curve = Curve.of(run.id, series.rank, series.quantity, series.labels)
            points = self._reader.points([series.id], cursors.get(curve, 0))[series.id]
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
