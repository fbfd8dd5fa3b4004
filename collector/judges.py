"""Judges: the phase engine of each run in memory, what of it and of the run is kept in the store, and what to do when it fails."""

import logging
from collections import Counter
from collections.abc import Container
from typing import final

from collector.health import Health
from collector.keepsake import packed
from collector.live import LiveRun
from collector.log import event, logger
from collector.phases import Machine, PhaseEngine, Transition
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_wire import Column, Estimate

STATE_EVERY = 256
"""Reports of a run after which the state of its phases is kept anew: a restart judges at most that many again."""


@final
class Judges:
    """See the module. Used by the inlet's thread."""

    def __init__(
        self, store: Store, reader: Reader, health: Health, machines: tuple[Machine, ...], alpha: float
    ) -> None:
        self._store = store
        self._reader = reader
        self._health = health
        self._machines = machines
        self._alpha = alpha
        self._engines: dict[str, PhaseEngine] = {}
        self._since_state: Counter[str] = Counter()

    def __getitem__(self, run_id: str) -> PhaseEngine:
        """The engine of a run that was taken up."""
        return self._engines[run_id]

    def take_up(self, run_id: str) -> int:
        """An engine for a run, from its stored state where there is one; returns the frame from which on it must judge."""
        engine = self._engines[run_id] = PhaseEngine(self._machines, self._alpha)
        self._since_state[run_id] = 0
        try:
            if (kept := self._reader.phase_state(run_id)) is not None and engine.restore(kept[1]):
                return kept[0]
        except Exception:  # noqa: BLE001 - however damaged, or kept otherwise by another release: the reports are all there
            logger.exception("phases.state_unreadable")
        return 0

    def forget_all_but(self, run_ids: Container[str]) -> None:
        """Let go of the engines of runs that are no longer in memory."""
        self._engines = {run_id: engine for run_id, engine in self._engines.items() if run_id in run_ids}
        self._since_state = Counter({run_id: n for run_id, n in self._since_state.items() if run_id in run_ids})

    def judge(self, run_id: str, rank: int, step: int, measured: list[tuple[Column, Estimate]]) -> list[Transition]:
        """What the run's engine makes of one report. An engine that fails judges that run no more; it says so and is counted."""
        self._since_state[run_id] += 1
        try:
            return self._engines[run_id].update(step, measured, rank)
        except Exception:  # noqa: BLE001 - whatever a machine stumbles over, reports go on being kept
            logger.exception("phases.failed")
            event("phases.stopped", logging.ERROR, run=run_id, step=step)
            self._health.phase_failures.inc()
            self._engines[run_id] = PhaseEngine(())
            return []

    def show(self, run: LiveRun) -> None:
        """Let the views see what a run's engine knows; the caller holds Live's lock."""
        engine = self._engines[run.run.id]
        run.spans, run.unjudged, run.judged = engine.phases, engine.unused, engine.judged

    def keep(self, run: LiveRun, frame_id: int, *, at_once: bool = False) -> None:
        """Put what is known of a run after this frame into the store, where it is time or ``at_once``."""
        run_id = run.run.id
        if at_once or self._since_state[run_id] >= STATE_EVERY:
            self._since_state[run_id] = 0
            self._store.put_states(run_id, self._engines[run_id].state(), packed(run), frame_id)
