"""Retrials: runs whose stored reports are judged again after an upgrade, in one thread beside the inlet.

The thread rests for as long as it worked after every report, so that it takes no more than half a core and never holds the
interpreter for longer than one report takes. It reads the store in short portions: a long one would keep its write-ahead log growing.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Collection, Container
from typing import NamedTuple, final

from collector.hearing import Hearing
from collector.live import Progress
from collector.log import Seldom, logger
from collector.phases import Transition
from collector.store.archive import StoredFrame
from collector.store.queries import Reader
from probe_wire import Goodbye, Schema

PORTION_SECONDS = 2.0
MOST_FOUND = 1000
"""Transitions that wait to be told."""
MOST_ASIDE = 100
"""Retrials of runs that are not in memory."""
RETRY_SECONDS = 1.0


class Found(NamedTuple):
    """A transition that a stored report makes known, and nobody has told yet."""

    frame_id: int
    transition: Transition


@final
class Retrial:
    """One run that is judged again.

    Args:
        hearing: where it begins.
        reader: reads the run.
        urgency: the greatest goes first.
    """

    def __init__(self, hearing: Hearing, reader: Reader, urgency: tuple[bool, float]) -> None:
        self.hearing = hearing
        self.urgency = urgency
        self._reader = reader
        self._gone = hearing.at, 0
        self.progress = Progress(0, self.left)
        self.found: list[Found] = []
        self.caught_up = False
        """It is the inlet's thread's, and not that of the retrials."""
        self._schemas: dict[tuple[int, int], Schema] = {}

    @property
    def schemas(self) -> Collection[Schema]:
        """Those its reports have come with."""
        return self._schemas.values()

    @property
    def left(self) -> int:
        """Reports that are stored and not judged, but for those that are being thinned, which nobody can judge any more."""
        at, gone = self._gone
        left = self._reader.reports_after(self.hearing.run_id, self.hearing.at)
        return max(left - gone, 0) if at == self.hearing.at else left

    def go_on(self, stop: threading.Event, seconds: float = PORTION_SECONDS) -> None:
        """Judge for so long what is stored by now; ``caught_up`` where that was all."""
        asked = time.monotonic()
        until = 0.0
        left, at = self.left, self.hearing.at
        self.progress.reports = self.progress.judged + left
        for frame in self._reader.frames(self.hearing.run_id, self.hearing.at):
            if not until:  # of very many ranks the first comes late: a portion takes as long again at least
                until = max(2 * time.monotonic() - asked, time.monotonic() + seconds)
            began = time.perf_counter()
            self.take(frame)
            if self.hearing.stopped or len(self.found) >= MOST_FOUND:
                break
            stop.wait(time.perf_counter() - began)
            if stop.is_set() or time.monotonic() > until:
                return
        if self.hearing.at == at:  # or it would be handed to and fro, a commit each time, until all of them are thinned
            self._gone = at, left + (self._gone[1] if self._gone[0] == at else 0)
        self.caught_up = True

    def finish(self) -> None:
        """Judge the rest."""
        for frame in self._reader.frames(self.hearing.run_id, self.hearing.at):
            self.take(frame)

    def tell(self) -> list[Found]:
        """What it has made known since this was asked last; it is not told again."""
        found, self.found = self.found, []
        self.hearing.told_until = max(self.hearing.told_until, self.hearing.at)
        return found

    def give_up(self) -> None:
        """What is being handled cannot be read, and the run is judged no more."""
        logger.exception("retrial.failed")
        self.hearing.stop(self.progress.judged)
        self.caught_up = True

    def take(self, frame: StoredFrame) -> None:
        """Judge one stored message."""
        message = frame.message
        if isinstance(message, Goodbye):
            self.hearing.at = frame.id
            return
        schema = self._schema(frame.stream_id, message.schema)
        for transition in self.hearing.judge(frame.id, frame.rank, schema, message):
            self.found.append(Found(frame.id, transition))
        self.progress.judged += 1

    def _schema(self, stream_id: int, schema_id: int) -> Schema:
        if (stream_id, schema_id) not in self._schemas:
            self._schemas = self._reader.schemas(self.hearing.run_id)
        return self._schemas[stream_id, schema_id]


@final
class Retrials:
    """See the module. Its methods are for the inlet's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._retrials: dict[str, Retrial] = {}
        self._thread: threading.Thread | None = None
        self._log = Seldom()

    def begin(self, retrial: Retrial) -> None:
        """Have a run judged again beside everything else; or go on with one that had caught up."""
        with self._lock:
            retrial.caught_up = False
            self._retrials[retrial.hearing.run_id] = retrial
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._work, name="retrials", daemon=True)
                self._thread.start()

    def get(self, run_id: str) -> Retrial | None:
        """That of a run, where it has one."""
        return self._retrials.get(run_id)

    def caught_up(self) -> list[Retrial]:
        """Those of which all reports are judged that there were a moment ago."""
        return [retrial for retrial in self._retrials.values() if retrial.caught_up]

    @property
    def waiting(self) -> int:
        """Reports that are stored and not judged; any thread may ask."""
        with self._lock:
            return sum(each.progress.reports - each.progress.judged for each in self._retrials.values())

    def forget_all_but(self, run_ids: Container[str]) -> None:
        """Let go of runs that are no longer in memory, but for some that may come back: after a commit that failed all do, one by one."""
        with self._lock:
            for run_id in [run_id for run_id in self._retrials if run_id not in run_ids][:-MOST_ASIDE]:
                del self._retrials[run_id]

    def end(self, run_id: str) -> None:
        """The run is judged by the inlet's thread from now on, or has to begin anew."""
        with self._lock:
            self._retrials.pop(run_id, None)

    def close(self) -> None:
        """Stop within a second; what is not finished begins anew in the next life."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)

    # -- the thread -------------------------------------------------------------------------------

    def _work(self) -> None:
        while (retrial := self._next()) is not None:
            try:
                retrial.go_on(self._stop)
            except (sqlite3.OperationalError, OSError) as error:
                self._log("retrial.interrupted", logging.WARNING, run=retrial.hearing.run_id, reason=str(error))
                self._stop.wait(RETRY_SECONDS)
            except Exception:  # noqa: BLE001 - what cannot be read of one run must not keep the others waiting
                retrial.give_up()

    def _next(self) -> Retrial | None:
        with self._lock:
            waiting = [each for each in self._retrials.values() if not each.caught_up]
            if not waiting or self._stop.is_set():
                self._thread = None
                return None
            return max(waiting, key=lambda each: each.urgency)
