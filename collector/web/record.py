"""Record: how often the claims of finished runs were right, in hindsight; judged beside everything else and kept."""

import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from collector.log import logger
from collector.phases import ALPHA, MACHINES, Machine
from collector.store.backtest import NEWEST, Known, Realised, backtest, judged
from collector.store.queries import Reader

FRESH_SECONDS = 60.0
"""Asked again within this time, the answer is the same."""


class TurnRecord(msgspec.Struct, frozen=True):
    """How one turn of a machine did in the series in which hindsight knows; the first of all has no machine and counts runs.

    ``interval`` is the 95 % interval of the rate of false alarms, of which ``alpha`` were promised at most; ``delay`` is the
    median in steps, null where nothing was hit.
    """

    machine: str
    from_phase: str
    to_phase: str
    alpha: float
    labelled: int
    false_alarms: int
    interval: tuple[float, float]
    kept: bool
    hits: int
    misses: int
    delay: float | None

    @classmethod
    def of(cls, one: Realised) -> "TurnRecord":
        """The same as a back-test has it."""
        score = one.score
        return cls(
            one.machine,
            one.from_phase,
            one.to_phase,
            one.alpha,
            score.labelled,
            score.false_alarms,
            score.false_alarm_interval,
            one.kept,
            score.hits,
            score.misses,
            score.median_delay,
        )


class RecordView(msgspec.Struct, frozen=True):
    """What is known by now: of so many finished runs; ``busy`` where more is being judged."""

    busy: bool
    runs: int
    turns: list[TurnRecord]


class Record:
    """Answers at once with what is known and, where that is old, judges what has finished since in a thread.

    That thread rests for as long as it worked, so that it never takes more than half a core from the inlet. ``publish`` is
    told what it found.
    """

    def __init__(
        self,
        reader: Reader,
        machines: Sequence[Machine] = MACHINES,
        alpha: float = ALPHA,
        publish: Callable[[list[TurnRecord]], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._machines = machines
        self._alpha = alpha
        self._publish = publish
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._known: Known = {}
        self._view = RecordView(busy=True, runs=0, turns=[])
        self._thread: threading.Thread | None = None
        self._judged_at = -FRESH_SECONDS

    def view(self) -> RecordView:
        """What is known now."""
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if not busy and time.monotonic() - self._judged_at >= FRESH_SECONDS:
                busy = True
                self._thread = threading.Thread(target=self._judge, name="record", daemon=True)
                self._thread.start()
            return msgspec.structs.replace(self._view, busy=busy)

    def refresh(self) -> None:
        """As if somebody had looked; but a collector that has just started has better to do."""
        if time.monotonic() - self._began >= FRESH_SECONDS:
            self.view()

    def _judge(self) -> None:
        try:
            rows = [row for row in self._reader.runs() if row.finished is not None][:NEWEST]
            for row in rows:
                began = time.monotonic()
                judged(self._reader, row, self._machines, self._known)
                time.sleep(time.monotonic() - began)
            found = backtest(self._reader, self._machines, self._alpha, runs=rows, known=self._known)
            turns = [TurnRecord.of(one) for one in found]
            with self._lock:
                self._view = RecordView(busy=False, runs=len(rows), turns=turns)
            self._publish(turns)
        except Exception:  # noqa: BLE001 - a run that cannot be judged must not be judged again at every question
            logger.exception("record.failed")
        finally:
            self._judged_at = time.monotonic()
