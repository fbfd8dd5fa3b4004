"""Courier: one stream's conversation with the collector, from greeting to the last acknowledgement.

What it carries stays in the ledger until the collector has committed it (cumulative acknowledgement). After a silence, a refusal
or a reconnection the courier greets again and sends from there (go-back-N); where numbers are missing it greets again as well, so
that the collector counts them as lost.
"""

import time
from collections.abc import Callable

from probe_post.ledger import Ledger
from probe_post.line import WINDOW
from probe_post.spool import Message
from probe_wire import Ack, Advice, Hello, Nack, Tighten, WireError, decode_for_agent, encode

ACK_SECONDS = 2.0
SILENCE_SECONDS, MOST_SILENCE_SECONDS = 4.0, 60.0
"""How long an answer may be missing before all is sent again; three times what answers took lately, and twice as long after each time:
a collector that has too much to do is not helped by hearing everything twice."""
HEARTBEAT_SECONDS = 15.0
POISON_REFUSALS = 3
"""After so many refusals of one message it is given up: it would never be taken."""

_BACKOFF = {"version": 30.0, "forbidden": 30.0, "store": 1.0}
_TOLD = ("version", "forbidden", "bad_message")


class Courier:
    """See the module. Not thread-safe: used by the outbox's thread alone.

    Args:
        put: sends a message if it can leave now, and says whether it did.
        hello: the stream's greeting, given the lowest number that can still be sent.
        ledger: what is to be delivered.
        complain: told what went wrong, by cause.
        breaks: how often the connection was lost so far; after each loss the greeting goes first.
        rate: messages a second at the most; catching up after a long outage must not take the cores training runs on.

    Attributes:
        greeted: the collector has answered the greeting.
        ever_greeted: it did so at least once.
        refusals: how often it has refused something since it last took a message.
    """

    def __init__(
        self,
        put: Callable[[bytes], bool],
        hello: Callable[[int], Hello],
        ledger: Ledger,
        complain: Callable[[str, str], None],
        *,
        breaks: Callable[[], int] = lambda: 0,
        rate: float = 2000.0,
    ) -> None:
        self.greeted = False
        self.ever_greeted = False
        self.refusals = 0
        self._put = put
        self._hello = hello
        self._ledger = ledger
        self._complain = complain
        self._breaks = breaks
        self._broken = breaks()
        self._rate = rate
        self._may_send = 0.0
        self._acknowledged = 0
        self._sent = 0  # highest number sent since the last greeting
        self._schemas_sent: set[int] = set()
        self._next_hello = 0.0
        self._last_sent = 0.0
        self._last_numbered = 0.0
        self._last_progress = 0.0  # an answer that told nothing new is none: a greeting only says that we live
        self._patience = SILENCE_SECONDS
        self._timed = (0, 0.0)  # a number that was sent once, and when: how long answers take; (0, …) where none is
        self._poison = 0

    # -- the conversation -------------------------------------------------------------------------

    def send(self) -> None:
        """Send what may be sent now: a greeting, or messages within the window. Never waits."""
        now = time.monotonic()
        if (
            self.greeted
            and self._sent > self._acknowledged
            and now - max(self._last_progress, self._last_numbered) > self._patience
        ):
            self.greeted = False  # no answer: greet again and go back
            self._timed = (0, now)
            self._patience = min(2 * self._patience, MOST_SILENCE_SECONDS)
        if (breaks := self._breaks()) != self._broken:
            self._broken = breaks
            self._timed = (0, now)
            if self.greeted:
                self.greeted, self._next_hello = False, now
        if not self.greeted:
            if now >= self._next_hello and self._greet():
                self._next_hello = now + ACK_SECONDS
            return
        if now - self._last_sent > HEARTBEAT_SECONDS:
            self._greet()
        self._send_window(now)

    def hurry(self) -> None:
        """From now on as fast as it goes: the process is about to end."""
        self._rate = float("inf")

    def _greet(self) -> bool:
        return self._put_now(encode(self._hello(self._ledger.first)))

    def _send_window(self, now: float) -> None:
        self._may_send = max(self._may_send, now - 0.1)  # what was not used a tenth of a second ago is gone
        for message in self._ledger.beyond(self._sent):
            if message.seq > self._acknowledged + WINDOW or self._may_send > now:
                return
            if message.seq > self._sent + 1:  # numbers are missing: the collector must hear of it in a greeting
                if self._sent <= self._acknowledged:
                    self.greeted, self._next_hello = False, now
                return
            if not self._send(message):
                return
            self._sent, self._last_numbered = message.seq, time.monotonic()
            self._may_send += 1 / self._rate
            if not self._timed[0]:
                self._timed = (message.seq, now)

    def _send(self, message: Message) -> bool:
        if message.schema is not None and message.schema[0] not in self._schemas_sent:
            number, schema = message.schema
            if not self._put_now(schema):
                return False
            self._schemas_sent.add(number)
        return self._put_now(message.data)

    def _put_now(self, data: bytes) -> bool:
        if not self._put(data):
            return False
        self._last_sent = time.monotonic()
        return True

    def hear(self, data: bytes) -> Advice | Tighten | None:
        """Take in an answer of the collector's. Returns it if it is for training."""
        try:
            message = decode_for_agent(data)
        except WireError as error:
            self._complain("answer", str(error))
            return None
        match message:
            case Ack(seq):
                self.take_ack(seq)
            case Nack():
                self.take_nack(message)
            case _:
                return message
        return None

    def take_ack(self, seq: int) -> None:
        """All up to this number is committed."""
        now = time.monotonic()
        if seq != self._acknowledged or not self.greeted:
            self._last_progress = now
        before = len(self._ledger)
        self._ledger.acknowledge(seq)
        self._acknowledged = seq
        timed, since = self._timed
        if 0 < timed <= seq:
            took = now - since
            self._patience = min(max(SILENCE_SECONDS, 3 * took), MOST_SILENCE_SECONDS)
            self._timed = (0, since)
        if len(self._ledger) < before:
            self.refusals = self._poison = 0
        if not self.greeted:
            self.greeted = self.ever_greeted = True
            self._sent = seq
            self._schemas_sent.clear()

    def take_nack(self, nack: Nack) -> None:
        """A message was not taken: greet again, at once or after a while, and go back."""
        if self.greeted or nack.reason in _BACKOFF:
            self._next_hello = time.monotonic() + _BACKOFF.get(nack.reason, 0.0)
        self.greeted = False
        self._timed = (0, 0.0)
        self.refusals += 1
        if nack.reason in _TOLD:
            self._complain(nack.reason, nack.detail)
        if nack.reason == "bad_message":
            self._poison += 1
            if self._poison >= POISON_REFUSALS:
                self._poison = 0
                self._ledger.give_up_first()
