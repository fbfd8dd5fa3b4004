"""Courier: one stream's conversation with the collector, from greeting to the last acknowledgement.

Lives in the outbox's thread. Every report stays in the ledger until the collector has committed it
(cumulative acknowledgement); after a silence, a refusal or a reconnection the courier greets again
and sends from there (go-back-N).
"""

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from probe_agent.complaints import Complaints, said
from probe_agent.draft import Draft
from probe_wire import (
    Ack,
    Advice,
    Column,
    Goodbye,
    Hello,
    Losses,
    Nack,
    Quantity,
    Report,
    Run,
    Schema,
    Tighten,
    WireError,
    decode_for_agent,
    encode,
    pack,
)

WINDOW = 512
ACK_SECONDS = 2.0
HEARTBEAT_SECONDS = 15.0
LEDGER_BYTES = 64 * 2**20
SCHEMAS = 64
"""So many sets of columns are remembered beyond those that reports in the ledger refer to."""
POISON_REFUSALS = 3
"""After so many refusals of one message it is given up: it would never be taken."""

_BACKOFF = {"version": 30.0, "store": 1.0}


@dataclass(frozen=True, slots=True)
class Entry:
    """One numbered message, encoded, waiting for its acknowledgement."""

    seq: int
    schema: int | None
    data: bytes


class Courier:
    """See the module. Not thread-safe: used by the outbox's thread alone, but for the two counters it shows."""

    def __init__(
        self, address: str, run: Run, rank: int, step: Callable[[], int], capacity: int, *, tightens: bool = False
    ) -> None:
        self.address = address
        self.dropped = 0
        self.said_goodbye = False
        self.greeted = False
        self.ever_greeted = False
        self._run = run
        self._rank = rank
        self._step = step
        self._tightens = tightens
        self._epoch = uuid.uuid4().hex[:16]
        self._capacity = capacity
        self._ledger: deque[Entry] = deque()
        self._ledger_bytes = 0
        self._seq = 0
        self._sent = 0  # highest number sent since the last greeting
        self._schemas: dict[tuple[tuple[Quantity, ...], str], int] = {}
        self._next_schema = 1
        self._schemas_by_id: dict[int, bytes] = {}
        self._schemas_sent: set[int] = set()
        self._next_hello = 0.0
        self._last_sent = 0.0
        self._last_ack = 0.0
        self._last_losses = Losses()
        self._last_step = 0
        self._refusals = 0
        self._complain = Complaints()
        self._socket: zmq.Socket[bytes] | None = None

    # -- the socket -------------------------------------------------------------------------------

    def connect(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        """Open the socket. Connecting is asynchronous: a missing collector is not an error."""
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)  # the default waits for ever in context.term()
        socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing may hide in a pipe to a peer that is not there
        socket.setsockopt(zmq.SNDHWM, WINDOW)
        socket.setsockopt(zmq.RCVHWM, WINDOW)
        socket.setsockopt(zmq.MAXMSGSIZE, 64 * 1024)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 6000)
        socket.connect(self.address)
        self._socket = socket

    def disconnect(self) -> None:
        """Close the socket; what is in it is lost, what is in the ledger is still counted."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    # -- the ledger -------------------------------------------------------------------------------

    @property
    def unacknowledged(self) -> int:
        """Messages the collector has not committed yet."""
        return len(self._ledger)

    def enlist(self, draft: Draft) -> None:
        """Number and encode a report. One that cannot travel is dropped and counted."""
        self._last_step = draft.step
        self._last_losses = draft.losses
        seq = self._seq + 1
        try:
            schema_id = self._schema_of(tuple(q for q, _, _ in draft.columns), tuple(c for _, c, _ in draft.columns))
            values, stderrs, paired, ns, outcomes = pack([estimate for _, _, estimate in draft.columns])
            data = encode(
                Report(
                    seq=seq,
                    step=draft.step,
                    time=draft.time,
                    schema=schema_id,
                    values=values,
                    stderrs=stderrs,
                    paired=paired,
                    ns=ns,
                    outcomes=outcomes,
                    costs=draft.costs,
                    training_seconds=draft.training_seconds,
                    probe_seconds=draft.probe_seconds,
                    losses=self._losses(),
                )
            )
        except Exception as error:  # noqa: BLE001 - whatever is wrong with this one, the next may be right
            self.dropped += 1
            self._complain("encode", f"a report of step {draft.step} cannot be sent and is dropped: {said(error)}")
            return
        self._append(Entry(seq, schema_id, data))

    def enlist_goodbye(self, reason: str) -> None:
        """Number and encode the last message of the stream."""
        self.said_goodbye = True
        goodbye = Goodbye(
            self._seq + 1, max(self._step(), self._last_step), time.time(), _travelling(reason), self._losses()
        )
        self._append(Entry(goodbye.seq, None, encode(goodbye)))

    def _append(self, entry: Entry) -> None:
        self._seq = entry.seq
        self._ledger.append(entry)
        self._ledger_bytes += len(entry.data)
        while len(self._ledger) > self._capacity or self._ledger_bytes > LEDGER_BYTES:
            self._drop_oldest()
            self._complain(
                "full", f"the collector at {self.address} is away too long: the oldest reports are dropped and counted"
            )

    def _drop_oldest(self) -> None:
        self._ledger_bytes -= len(self._ledger.popleft().data)
        self.dropped += 1

    def _losses(self) -> Losses:
        losses = self._last_losses
        return Losses(self.dropped, losses.snapshots_skipped, losses.scalars_dropped)

    def _schema_of(self, quantities: tuple[Quantity, ...], columns: tuple[Column, ...]) -> int:
        distinct = tuple(dict.fromkeys(quantities))
        key = (distinct, repr(columns))
        known = self._schemas.get(key)
        if known is None:
            data = encode(Schema(self._next_schema, distinct, columns))
            known = self._schemas[key] = self._next_schema
            self._schemas_by_id[known] = data
            self._next_schema += 1
            self._forget_schemas()
        return known

    def _forget_schemas(self) -> None:
        """Keep what waiting reports refer to and the latest few: a probe may name new series at every step."""
        if len(self._schemas) <= SCHEMAS:
            return
        needed = {entry.schema for entry in self._ledger} | {self._next_schema - 1}
        for key, schema_id in list(self._schemas.items())[: -SCHEMAS // 2]:
            if schema_id not in needed:
                del self._schemas[key], self._schemas_by_id[schema_id]
                self._schemas_sent.discard(schema_id)

    # -- the conversation -------------------------------------------------------------------------

    def send(self) -> None:
        """Send what may be sent now: a greeting, or reports within the window. Never waits."""
        now = time.monotonic()
        if self.greeted and self._sent > self._acked and now - max(self._last_ack, self._last_sent) > ACK_SECONDS:
            self.greeted = False  # no answer: greet again and go back
        if not self.greeted:
            if now >= self._next_hello and self._put(self._hello()):
                self._next_hello = now + ACK_SECONDS
            return
        if now - self._last_sent > HEARTBEAT_SECONDS:
            self._put(self._hello())
        self._send_window()

    def _send_window(self) -> None:
        for entry in self._ledger:
            if entry.seq > self._acked + WINDOW:
                break
            if entry.seq <= self._sent:
                continue
            if entry.schema is not None and entry.schema not in self._schemas_sent:
                if not self._put(self._schemas_by_id[entry.schema]):
                    return
                self._schemas_sent.add(entry.schema)
            if not self._put(entry.data):
                return
            self._sent = entry.seq

    @property
    def _acked(self) -> int:
        return self._ledger[0].seq - 1 if self._ledger else self._seq

    def _hello(self) -> bytes:
        first = self._ledger[0].seq if self._ledger else self._seq + 1
        return encode(Hello(self._run, self._rank, self._epoch, first, max(self._step(), 0), self._tightens))

    def _put(self, data: bytes) -> bool:
        assert self._socket is not None  # noqa: S101 - connected before the loop starts
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._last_sent = time.monotonic()
        return True

    def receive(self, milliseconds: int) -> list[Advice | Tighten]:
        """Take in the collector's answers, waiting at most so long for the first. Returns those that are for training."""
        assert self._socket is not None  # noqa: S101
        taken: list[Advice | Tighten] = []
        if not self._socket.poll(milliseconds, zmq.POLLIN):
            return taken
        for _ in range(1000):
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                message = decode_for_agent(data)
            except WireError as error:
                self._complain("answer", str(error))
                continue
            match message:
                case Ack(seq):
                    self._take_ack(seq)
                case Nack():
                    self._take_nack(message)
                case Advice() | Tighten():
                    taken.append(message)
        return taken

    def _take_ack(self, seq: int) -> None:
        self._last_ack = time.monotonic()
        before = len(self._ledger)
        while self._ledger and self._ledger[0].seq <= seq:
            self._ledger_bytes -= len(self._ledger.popleft().data)
        if len(self._ledger) < before:
            self._refusals = 0
        if not self.greeted:
            self.greeted = self.ever_greeted = True
            self._sent = seq
            self._schemas_sent.clear()

    def _take_nack(self, nack: Nack) -> None:
        if self.greeted or nack.reason in _BACKOFF:
            self._next_hello = time.monotonic() + _BACKOFF.get(nack.reason, 0.0)
        self.greeted = False
        if nack.reason == "version":
            self._complain("version", nack.detail)
        if nack.reason == "bad_message":
            self._complain("bad_message", nack.detail)
            self._refusals += 1
            if self._refusals >= POISON_REFUSALS and self._ledger:
                self._refusals = 0
                self._drop_oldest()


def _travelling(reason: str) -> str:
    return reason[:200].encode(errors="replace").decode() or "finished"
