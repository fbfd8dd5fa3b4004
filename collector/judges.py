"""Judges: the hearing of each run in memory, what of it and of the run is kept in the store, and which runs are judged again."""

import logging
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Container, Iterable
from threading import RLock
from typing import final

from collector.health import Health
from collector.hearing import Hearing
from collector.keepsake import packed
from collector.live import Live, LiveRun
from collector.log import event, logger
from collector.phases import Machine, PhaseEngine, Span, Transition
from collector.retrials import Found, Retrial, Retrials
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_wire import Column, Report, Schema

STATE_EVERY, OF_EACH_RANK = 256, 16
"""Reports of a run, and of each of its ranks on average, after which its state is kept anew: a restart reads that many again."""
AT_ONCE = 2000
"""Points that may be judged again while agents wait, at about a tenth of a millisecond each."""
DUE = 2**31
LATER = 2**63
"""No frame is beyond it."""


@final
class Judges:
    """See the module. Used by the inlet's thread."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        lock: RLock,
        health: Health,
        machines: tuple[Machine, ...],
        alpha: float,
    ) -> None:
        self._store = store
        self._lock = lock
        self._reader = reader
        self._health = health
        self._machines = machines
        self._by_quantity: defaultdict[str, list[Machine]] = defaultdict(list)
        for machine in machines:
            self._by_quantity[machine.quantity].append(machine)
        self._alpha = alpha
        self._hearings: dict[str, Hearing] = {}
        self._retrials = Retrials()
        self._told: set[str] = set()  # what their retrials found is told, and not committed yet
        self._since_state: Counter[str] = Counter()

    def __getitem__(self, run_id: str) -> PhaseEngine:
        """The engine of a run that is judged as its reports come."""
        return self._hearings[run_id].engine

    # -- runs come and go -------------------------------------------------------------------------

    def take_up(self, run: LiveRun, schemas: Collection[Schema]) -> int:
        """A hearing for a run, from its stored state where there is one; returns the frame from which on the caller must have it judged.

        That is `LATER` where so much is left that it is judged beside everything else.
        """
        run_id = run.run.id
        self._since_state[run_id] = DUE  # up to where all was told is kept with the next report
        if (retrial := self._retrials.get(run_id)) is None:
            hearing = self._resumed(run_id)
            retrial = Retrial(hearing, self._reader, (run.state(run.last_heard) != "finished", run.last_heard))
            left = retrial.progress.reports
            if not self._too_long(left, schemas):
                if hearing.at or not left:
                    self._since_state[run_id] = 0
                self._hearings[run_id] = hearing
                return hearing.at
            self._retrials.begin(retrial)
            event("phases.judging_again", run=run_id, reports=left)
        run.retrial = retrial.progress
        return LATER

    def begin(self, run_id: str) -> None:
        """A hearing for a run of which nothing is stored."""
        engine = PhaseEngine(self._machines, self._alpha)
        self._hearings[run_id] = Hearing(run_id, engine, 0, 0, {}, failed=self._health.phase_failures.inc)

    def give_up(self, run_id: str) -> None:
        """Judge a run no more whose past cannot be read: evidence that begins in the middle of it would say something else."""
        self._retrials.end(run_id)
        self.begin(run_id)
        self._hearings[run_id].stop(0)

    def _resumed(self, run_id: str) -> Hearing:
        engine = PhaseEngine(self._machines, self._alpha)
        at, told_until, before = 0, self._reader.last_frame(), None
        numbered: list[tuple[str, str, int]] = []
        superseded: list[tuple[str, str, int, str]] = []
        try:
            if (kept := self._reader.phase_state(run_id)) is not None:
                told_until = int(kept[1].get("told_until", told_until))
                before = kept[1].get("before")
                if engine.restore(kept[1]):
                    at, numbered, superseded = kept[0], kept[1].get("numbered", []), kept[1].get("superseded", [])
                else:
                    before = before or kept[1]["versions"]
        except Exception:  # noqa: BLE001 - however damaged, or kept otherwise by another release: the reports are all there
            logger.exception("phases.state_unreadable")
        told = self._reader.claims(run_id, at)
        failed = self._health.phase_failures.inc
        return Hearing(run_id, engine, at, told_until, told, numbered, superseded, before=before, failed=failed)

    def _too_long(self, reports: int, schemas: Iterable[Schema]) -> bool:
        widest = max((sum(self._judged(column) for column in schema.columns) for schema in schemas), default=0)
        return reports * max(widest, 1) > AT_ONCE

    def _judged(self, column: Column) -> int:
        """By how many machines."""
        return sum(machine.judges(column.labels) for machine in self._by_quantity.get(column.quantity, ()))

    def judged_anew(self, run_id: str) -> bool:
        """Whether a run has just been judged from its first report on, which is not kept yet."""
        return run_id in self._hearings and self._since_state[run_id] >= DUE

    @property
    def caught_up(self) -> bool:
        """Whether there is something to take over."""
        return any(self._retrials.caught_up())

    @property
    def waiting(self) -> int:
        """Reports that are kept and shown and whose turn to be judged is still to come; any thread may ask."""
        return self._retrials.waiting

    def take_over(self, live: Live) -> list[tuple[LiveRun, list[Found]]]:
        """Go on here with the runs whose retrial has caught up, when all that came is committed. Returns what they made known.

        The caller keeps each of them at once.
        """
        self._told.clear()
        over = []
        for retrial in self._retrials.caught_up():
            run_id = retrial.hearing.run_id
            if (run := live.runs.get(run_id)) is None:  # it will be taken up again when it is heard
                self._retrials.end(run_id)
                continue
            done = self._finished(retrial)
            self._told.add(run_id)
            over.append((run, retrial.tell()))
            if not done:
                self._retrials.begin(retrial)
                continue
            self._retrials.end(run_id)
            self._hearings[run_id] = retrial.hearing
            run.retrial = None
            event("phases.judged_again", run=run_id, reports=retrial.progress.judged)
        return over

    def _finished(self, retrial: Retrial) -> bool:
        """Judge the rest where it is little; whether that was all. What cannot be read now is left to the thread, which tries again."""
        try:
            if retrial.hearing.stopped:
                return True
            if self._too_long(retrial.left, retrial.schemas):
                return False
            retrial.finish()
        except (sqlite3.OperationalError, OSError) as error:
            event("retrial.interrupted", logging.WARNING, run=retrial.hearing.run_id, reason=str(error))
            return False
        except Exception:  # noqa: BLE001 - what cannot be read of one run must not end the inlet
            retrial.give_up()
        return True

    def forget_all_but(self, run_ids: Container[str]) -> None:
        """Let go of what is judged of runs that are no longer in memory."""
        self._hearings = {run_id: each for run_id, each in self._hearings.items() if run_id in run_ids}
        self._since_state = Counter({run_id: n for run_id, n in self._since_state.items() if run_id in run_ids})
        self._retrials.forget_all_but(run_ids)

    def undo(self) -> None:
        """Let go of all that may not have been committed; what is judged again beside it goes on."""
        self._hearings.clear()
        self._since_state.clear()
        for run_id in self._told:
            self._retrials.end(run_id)
        self._told.clear()

    def close(self) -> None:
        """End the thread that judges again, within a second."""
        self._retrials.close()

    # -- reports ----------------------------------------------------------------------------------

    def judge(self, run_id: str, frame_id: int, rank: int, schema: Schema, report: Report) -> list[Transition]:
        """What a report makes known that was not told before; nothing yet where the run is judged again."""
        self._since_state[run_id] += 1
        hearing = self._hearings.get(run_id)
        return [] if hearing is None else hearing.judge(frame_id, rank, schema, report)

    def remember(self, run: LiveRun, spans: list[Span]) -> None:
        """Take the phases a run has been in from what was told of them, where they are not known better."""
        hearing = self._hearings.get(run.run.id)
        if hearing is None:
            run.spans = spans
        else:
            hearing.engine.remember(spans)

    def show(self, run: LiveRun) -> None:
        """Let the views see what a run's engine knows; the caller holds Live's lock."""
        if (hearing := self._hearings.get(run.run.id)) is not None:
            engine = hearing.engine
            run.spans, run.unjudged, run.judged = engine.phases, engine.unused, engine.judged
            if hearing.superseded:
                run.transitions = deque(filter(hearing.stands, run.transitions), run.transitions.maxlen)

    def keep(self, run: LiveRun, frame_id: int, *, at_once: bool = False) -> None:
        """Put what is known of a run after this frame into the store, where it is time or ``at_once``."""
        run_id = run.run.id
        if at_once or self._since_state[run_id] >= max(STATE_EVERY, OF_EACH_RANK * len(run.ranks)):
            self._since_state[run_id] = 0
            if (hearing := self._hearings.get(run_id)) is not None:
                state = hearing.state()
            elif (retrial := self._retrials.get(run_id)) is not None:
                state = retrial.hearing.unfinished()
            else:
                return
            with self._lock:  # a view settles the run too
                live = packed(run)
            self._store.put_states(run_id, state, live, frame_id)
