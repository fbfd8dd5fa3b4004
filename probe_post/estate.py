"""Estate: what dead jobs on this machine left for the collector; delivered one spool at a time beside one's own reports.

A stream whose process is gone ends here: a goodbye that says so follows the last of its messages, so that its run does not look
like one that is only silent.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import final

import zmq
from msgspec import structs

from probe_post import spools
from probe_post.courier import Courier
from probe_post.ledger import Ledger
from probe_post.line import Line
from probe_post.spool import Message, Spool, decoded
from probe_wire import Goodbye, Hello, Report, WireError, decode_for_collector, encode
from probe_wire.agent_key import AgentKey

LOOK_SECONDS = 60.0
"""How often it is looked for what other jobs left since."""
REFUSALS = 5
"""After so many a spool stays where it is until the next look: another key or another release may be what it takes."""
DIED = "the process ended without saying goodbye"


@final
class Legacy:
    """One spool that is being delivered."""

    def __init__(
        self,
        spool: Spool,
        greeting: Hello,
        address: str,
        key: AgentKey | None,
        complain: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self.run = greeting.run
        self.ledger = Ledger(1, complain)
        self.ledger.use(spool)
        self.line = Line(address, key, complain)
        self.courier = Courier(self.line.put, self._hello, self.ledger, complain, breaks=lambda: self.line.breaks)
        self._greeting = greeting
        self._seal(spool)

    @property
    def refused(self) -> bool:
        """The collector does not want it."""
        return self.courier.refusals > REFUSALS

    def turn(self, milliseconds: int) -> None:
        """Send what can be sent, and take in what comes within so long."""
        self.courier.send()
        for parts in self.line.receive(milliseconds):
            self.courier.hear(parts[-1])

    def _hello(self, first: int) -> Hello:
        return structs.replace(
            self._greeting, first=first, tightens=False, time=time.time(), waiting=len(self.ledger), ended=True
        )

    def _seal(self, spool: Spool) -> None:
        """Add the goodbye that was never said."""
        last, step = None, self._greeting.step
        with suppress(WireError):
            for message in spool.after(spool.last - 1):
                last = decode_for_collector(message.data)
        if isinstance(last, Goodbye):
            return
        if isinstance(last, Report):
            step = last.step
        seq = self.ledger.last + 1
        self.ledger.append(Message(seq, None, encode(Goodbye(seq, step, time.time(), DIED))))


@final
class Estate:
    """See the module. Not thread-safe.

    Args:
        root: where spools lie; None where there are none.
        address: the collector's inlet.
        key: proves who is calling.
        tell: told what was delivered.

    Attributes:
        delivered: messages of dead jobs that the collector has committed.
    """

    def __init__(
        self, root: Path | None, address: str, key: AgentKey | None, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.delivered = 0
        self._tell = tell
        self._root = root
        self._address = address
        self._key = key
        self._left: Iterator[Spool] = iter(())
        self._look_at = 0.0
        self._legacy: Legacy | None = None

    @property
    def busy(self) -> bool:
        """Something is being delivered."""
        return self._legacy is not None

    def work(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        """Do what can be done without waiting."""
        if self._legacy is None:
            self._legacy = self._next()
            if self._legacy is None:
                return
            self._legacy.line.connect(context)
        legacy = self._legacy
        waited = len(legacy.ledger)
        legacy.turn(milliseconds=0)
        self.delivered += max(0, waited - len(legacy.ledger))
        if not len(legacy.ledger):
            self._tell(f"the reports that a job of the run {legacy.run.name!r} left behind are delivered.")
            self.rest()
        elif legacy.refused:
            self.rest()

    def rest(self) -> None:
        """Let go of what is being delivered; who looks next goes on with it."""
        if self._legacy is not None:
            self._legacy.line.disconnect()
            self._legacy.ledger.close()
            self._legacy = None

    def forsake(self) -> None:
        """In a forked child: the files are the parent's."""
        if self._legacy is not None:
            self._legacy.ledger.forsake()

    def _next(self) -> Legacy | None:
        if self._root is None:
            return None
        for spool in self._left:
            greeting = decoded(spool.stream)
            try:
                if greeting is not None:
                    return Legacy(spool, greeting, self._address, self._key)
            except OSError as error:
                self._tell(f"what a job left in {spool.folder} cannot be read for now: {error}")
            spool.close(delete=False)
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            spools.trim(self._root)
            self._left = spools.left_behind(self._root, self._address)
        return None
