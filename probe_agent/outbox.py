"""Outbox: reports on their way out. Never blocks training, never grows without bound, counts what it drops.

The training thread appends to a deque. One daemon thread numbers what it finds there, writes it to the ledger's spool and has the
courier deliver it; in quiet moments it delivers what dead jobs left on this machine.
"""

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import zmq

from probe_agent.complaints import Complaints, said, tell, warn
from probe_agent.draft import Draft
from probe_agent.stream import Stream, Tally
from probe_post import spools
from probe_post.courier import Courier
from probe_post.errors import SpoolError
from probe_post.estate import Estate
from probe_post.ledger import Ledger
from probe_post.line import Line, Reach
from probe_wire import Advice, Hello, Run, Tighten, encode
from probe_wire.agent_key import AgentKey

CLOSE_SECONDS = 1.3
"""The most `close` waits for the collector; with what ends after it a job's exit takes less than two seconds longer."""

CONNECT_SECONDS = 0.5
"""How much of that a collector gets that never answered, and the first outbox only that waits for it in vain."""

QUEUE = 2000
"""Reports that may wait to be numbered."""


_SILENT = "Whoever listens there never answered"
_HUNG_UP = "Whoever listens there hung up: it asks for {} (PHASEWATCH_KEY), or is no collector"
_SILENCE: Final = {
    Reach.NOBODY: "No connection came about: nobody listens there",
    Reach.CONNECTED: _SILENT,
    Reach.LET_IN: _SILENT,
    Reach.HUNG_UP: _HUNG_UP,
    Reach.SPEAKS_OTHERWISE: _HUNG_UP,  # which of the two it is depends on who of both is first to notice
    Reach.KEY_REFUSED: "The collector does not let in the key that was given (PHASEWATCH_KEY)",
}
"""What is the matter with one that never answered."""


class Outbox(Protocol):
    """Where a Monitor puts its reports."""

    def put(self, draft: Draft) -> None:
        """Take a report; must return at once and must not raise."""

    def advice(self) -> list[Advice]:
        """What the collector advised since the last call."""

    def close(self, reason: str) -> None:
        """Deliver what can be delivered within `CLOSE_SECONDS`, then stop."""

    def abandon(self) -> None:
        """Nobody will put anything any more: stop when all is delivered, without waiting."""


class ListOutbox:
    """Keeps every report in a list: for notebooks and tests, where no collector runs."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.closed: str | None = None

    def put(self, draft: Draft) -> None:
        """Append the report."""
        self.drafts.append(draft)

    def advice(self) -> list[Advice]:
        """Nobody advises."""
        return []

    def close(self, reason: str) -> None:
        """Remember the reason."""
        self.closed = reason

    def abandon(self) -> None:
        """Nothing to stop."""


class ZmqOutbox:
    """Pushes reports to a collector over ZeroMQ from a daemon thread, which keeps them on disk until they are committed.

    Args:
        address: the collector's inlet, such as ``tcp://127.0.0.1:5757``.
        run: who is reporting.
        rank: which process of the run.
        step: gives the current step, for the greeting that also serves as heartbeat.
        capacity: reports kept in memory where no disk takes them while the collector is away; beyond it the oldest go and are
            counted.
        wish: takes each wish of the collector's to measure more often; without it the collector is told to send none.
        key: proves who is reporting to a collector that asks for it.
        root: where reports wait on disk; default `spools.root()`.
    """

    def __init__(
        self,
        address: str,
        run: Run,
        rank: int,
        step: Callable[[], int],
        *,
        capacity: int = 10_000,
        wish: Callable[[Tighten], None] | None = None,
        key: AgentKey | None = None,
        root: Path | None = None,
    ) -> None:
        self.address = address
        self.dropped = 0
        self._queue: deque[Draft] = deque()
        self._advice: deque[Advice] = deque(maxlen=1000)
        self._closing: str | None = None
        self._abandoned = self._over = False
        self._deadline = float("inf")
        self._wish = wish
        self._complain = Complaints()
        self._stream = Stream(run, rank, step, tightens=wish is not None)
        self._root = root or spools.root()
        self._ledger = Ledger(capacity, self._complain)
        self._keyed = key is not None
        self._line = Line(address, key, self._complain)
        self._courier = Courier(
            self._line.put, self._hello, self._ledger, self._complain, breaks=lambda: self._line.breaks
        )
        self._estate = Estate(self._root, address, key, tell)
        self._thread = threading.Thread(target=self._deliver, name="phasewatch-outbox", daemon=True)
        self._thread.start()
        _open.add(self)

    def tell_of(self, tally: Tally) -> None:
        """The last message says what is counted there, be it abandoned with whoever counted."""
        self._stream.tally = tally

    def _hello(self, first: int) -> Hello:
        return self._stream.hello(first, len(self._ledger))

    def put(self, draft: Draft) -> None:
        """Queue the report; a deque append, nothing else happens in the training thread."""
        self._queue.append(draft)  # first: whoever counts what is left sees it, or what follows does
        if self._over:  # such as of a worker process that ended after its monitor was closed
            with suppress(ValueError, IndexError):  # the thread may be taking from it
                self._queue.remove(draft)
            self.dropped += 1
            self._complain("late", f"the report of step {draft.step} came after this run was closed, and is lost")
            return
        if len(self._queue) > QUEUE:  # the thread stands still: a disk that hangs, a process short of everything
            with suppress(IndexError):
                self._queue.popleft()
                self.dropped += 1

    def advice(self) -> list[Advice]:
        """What the collector advised since the last call."""
        return [self._advice.popleft() for _ in range(len(self._advice))]

    @property
    def undelivered(self) -> int:
        """Messages not yet acknowledged."""
        return len(self._queue) + len(self._ledger)

    def close(self, reason: str) -> None:
        """Say goodbye and wait until everything is acknowledged, `CLOSE_SECONDS` at the most.

        In a forked child this does nothing: the thread and the socket belong to the parent.
        """
        if self not in _open:
            return
        self.request_close(reason)
        self._thread.join(CLOSE_SECONDS + 0.3)  # the loop looks at the clock at least ten times a second
        _open.discard(self)
        (_waited_for.discard if self._courier.ever_greeted else _waited_for.add)(self.address)
        self._say_what_is_left()

    def _say_what_is_left(self) -> None:
        if self._over:
            return
        self._over = True
        lost = len(self._queue) + self._ledger.in_memory
        if kept := self.undelivered - lost:
            warn(
                f"the collector at {self.address} has not acknowledged {kept} messages.{self._silence} They wait in {self._root}; "
                "the next job on this machine delivers them, or `probe-agent spool deliver`."
            )
        if lost:
            warn(
                f"{lost} messages were not acknowledged by the collector at {self.address} and are lost.{self._silence}"
            )

    @property
    def _silence(self) -> str:
        """What is the matter with a collector that never answered, as far as that can be told: to a stranger it says nothing."""
        if self._courier.ever_greeted:
            return ""
        asks = "another key or none" if self._keyed else "a key and none was given"
        return f" {_SILENCE[self._line.reach].format(asks)}."

    def abandon(self) -> None:
        """Ask the thread to say goodbye and end, without waiting for it; what is left then, it tells."""
        self._abandoned = True
        self.request_close("let go without close()")

    def request_close(self, reason: str) -> None:
        """Set the reason and the deadline; the first call counts."""
        if self._closing is None:
            self._deadline = time.monotonic() + self._patience()
            self._closing = str(reason) or "finished"

    def _patience(self) -> float:
        """How many seconds to wait for the last acknowledgement.

        Many monitors in one process wait once for a collector that is not there.
        """
        if self._courier.ever_greeted:
            return CLOSE_SECONDS
        return 0.0 if self.address in _waited_for else CONNECT_SECONDS

    def _deliver(self) -> None:
        try:
            self._open_spool()  # here and not in the training thread: a file system may hang
            with zmq.Context() as context:
                self._line.connect(context)
                try:
                    self._loop(context)
                finally:
                    self._estate.rest()
                    self._line.disconnect()
                    self._ledger.close()
            if self._abandoned:
                self._say_what_is_left()
        except Exception as error:  # noqa: BLE001 - a bug of ours ends our thread, never the user's job
            self._queue = deque(maxlen=0)  # from here on reports go nowhere instead of growing
            warn(f"the outbox stopped, no further reports leave this process: {said(error)}")

    def _open_spool(self) -> None:
        if self._root is None:
            return
        hello = self._stream.hello(1)
        try:
            self._ledger.use(spools.create(self._root, self.address, hello, encode(hello)))
        except SpoolError as error:
            warn(f"{error} Until then a killed job loses what the collector has not got yet.")

    def _loop(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        courier, ledger = self._courier, self._ledger
        while True:
            closing = self._closing
            while self._queue:
                self._enlist(self._queue.popleft())
            if closing is not None and not self._stream.said_goodbye:
                ledger.append(self._stream.goodbye(closing, ledger.last + 1, self._lost))
                courier.hurry()
            courier.send()
            ledger.sync()
            if courier.greeted and closing is None:
                self._work_on_the_estate(context)
            for parts in self._line.receive(milliseconds=20 if len(ledger) or self._estate.busy else 100):
                heard = courier.hear(parts[-1])
                if isinstance(heard, Advice):
                    self._advice.append(heard)
                elif heard is not None and self._wish is not None:
                    self._wish(heard)
            if closing is not None and (len(ledger) == 0 or time.monotonic() > self._deadline):
                return

    def _work_on_the_estate(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        """What others left must not end what is ours."""
        try:
            self._estate.work(context)
        except Exception as error:  # noqa: BLE001 - other jobs write and delete there while we look
            self._complain("estate", f"what a dead job left could not be delivered: {said(error)}")
            self._estate.rest()

    def _enlist(self, draft: Draft) -> None:
        """Number a report and keep it. One that cannot travel is dropped and counted."""
        try:
            message = self._stream.report(draft, self._ledger.last + 1, self._lost)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with this one, the next may be right
            self.dropped += 1
            self._complain("encode", f"a report of step {draft.step} cannot be sent and is dropped: {said(error)}")
        else:
            self._ledger.append(message)

    @property
    def _lost(self) -> int:
        return self.dropped + self._ledger.lost

    def forsake(self) -> None:
        """In a forked child, which has our objects but not our thread: do nothing any more, touch no socket and no file."""
        self._queue = deque(maxlen=0)
        self._ledger.forsake()
        self._estate.forsake()


_open: "weakref.WeakSet[ZmqOutbox]" = weakref.WeakSet()

_waited_for: set[str] = set()
"""Collectors that an outbox of this process never heard from in its whole life, its last wait included."""


def _forget_in_child() -> None:
    """A forked child has our objects but not our thread: every outbox becomes a no-op, no socket is touched."""
    for outbox in list(_open):
        outbox.forsake()
    _open.clear()


def _close_at_exit() -> None:
    with suppress(KeyboardInterrupt):  # somebody who does not want to wait need not
        for outbox in list(_open):  # all deadlines run at once: many monitors wait no longer than one
            outbox.request_close("interpreter exit")
        for outbox in list(_open):
            outbox.close("interpreter exit")


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_close_at_exit)
