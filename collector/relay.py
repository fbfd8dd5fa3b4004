"""Relay: takes the reports of every rank on a host, keeps them on disk, and passes them on over one connection.

To an agent it is a collector: it greets back, counts, and acknowledges what is on disk for good. To the collector it is many agents on
one line, each message with its name for the stream before it. It judges nothing and shows nothing; Advice and Tighten pass through. What
it has not delivered when it is killed it finds again when it starts.
"""

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from msgspec import structs

from collector.gate import Gate
from collector.log import Seldom, event
from probe_post import spools
from probe_post.courier import Courier
from probe_post.errors import SpoolError
from probe_post.ledger import Ledger
from probe_post.line import WINDOW, Line
from probe_post.spool import Message, Spool, decoded
from probe_wire import (
    Ack,
    Goodbye,
    Hello,
    Nack,
    Report,
    Schema,
    ToAgent,
    UnknownVersion,
    WireError,
    decode_for_collector,
    encode,
)
from probe_wire.agent_key import AgentKey

MOST_STREAMS = 1000
"""Each holds two files open."""
SYNC_SECONDS = 0.2
"""How long an acknowledgement waits for others to share its visit to the disk."""
DRAIN = 1000
STREAM_SCHEMA_BYTES, ALL_SCHEMA_BYTES = 16 * 2**20, 256 * 2**20
"""Of what one stream may name, as at the collector, and all together: schemas are held in memory until their stream ends."""
TELL_SECONDS = 60.0
HEARTBEAT_SECONDS = 20.0
"""A little more than an agent lets pass between two signs of life."""
IDLE_SECONDS = 600.0
"""After so long a stream of which nothing waits is forgotten; should it come again it is taken up again."""


@dataclass(slots=True)
class Forwarded:
    """One stream on its way through. ``agent`` is who speaks for it now; None after a restart, until it greets again."""

    name: bytes
    hello: Hello
    ledger: Ledger
    courier: Courier
    agent: bytes | None = None
    heard: float = 0.0
    high: int = 0
    floor: int = 0
    """What the agent does not have any more: up to here there is nothing to wait for."""
    acknowledged: int = -1
    finished: bool = False
    schemas: dict[int, bytes] = field(default_factory=dict)
    schema_bytes: int = 0


class Relay:
    """See the module.

    Args:
        gate: where agents come in; closed when the relay stops.
        address: the collector's inlet.
        key: proves to the collector who is calling; its runs belong to this key.
        root: where reports wait.

    Attributes:
        forwarded: messages the collector has committed.
        lost: messages given up for want of disk.
    """

    def __init__(self, gate: Gate, address: str, key: AgentKey | None, root: Path) -> None:
        self.forwarded = 0
        self.lost = 0
        self._gate = gate
        self._line = Line(address, key, self._complain)
        self._root = root
        self._streams: dict[bytes, Forwarded] = {}
        self._by_greeting: dict[tuple[str, int, str], Forwarded] = {}
        self._agents: dict[bytes, Forwarded] = {}
        self._stop = threading.Event()
        self._names = 0
        self._tell_at = 0.0
        self._log = Seldom()

    def stop(self) -> None:
        """Ask the loop to end; for any thread, and for a signal's handler."""
        self._stop.set()

    def run(self) -> None:
        """Pass on until stopped; what is not delivered then waits on disk."""
        with zmq.Context() as context:
            self._line.connect(context)
            try:
                for spool in spools.left_behind(self._root, self._line.address):
                    self._take_up(spool)
                event(
                    "relay.started", inlet=self._gate.address, collector=self._line.address, streams=len(self._streams)
                )
                while not self._stop.is_set():
                    self._turn()
            finally:
                self._line.disconnect()
                for stream in self._streams.values():
                    stream.ledger.close()
                self._gate.close(linger=100)
                event("relay.stopped", forwarded=self.forwarded, waiting=self.waiting, lost=self.lost)

    @property
    def waiting(self) -> int:
        """Messages that the collector has not committed."""
        return sum(len(stream.ledger) for stream in self._streams.values())

    def _turn(self) -> None:
        if self._gate.poll(20 if self.waiting else 100):
            self._drain()
        self._gate.refresh()
        now = time.monotonic()
        for stream in list(self._streams.values()):
            self._acknowledge(stream)
            if (
                len(stream.ledger) or now - stream.heard < HEARTBEAT_SECONDS
            ):  # the collector hears that it lives while it does
                stream.courier.send()
        for parts in self._line.receive(0):
            self._hear(parts)
        for stream in list(self._streams.values()):
            if not len(stream.ledger) and (stream.finished or now - stream.heard > IDLE_SECONDS):
                self._let_go(stream)
        if now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            event(
                "relay.state",
                streams=len(self._streams),
                waiting=self.waiting,
                forwarded=self.forwarded,
                lost=self.lost,
            )

    # -- from the agents --------------------------------------------------------------------------

    def _drain(self) -> None:
        for _ in range(DRAIN):
            if (came := self._gate.receive()) is None:
                return
            (agent, *more), user, data = came
            if self._gate.owner_of(user) is None:
                self._refuse(agent, "forbidden", "The key was revoked. Ask for another where the collector runs.")
            elif more:
                self._refuse(agent, "bad_message", f"Got a message of {len(more) + 1} parts; need one.")
            else:
                self._take(agent, data)

    def _take(self, agent: bytes, data: bytes) -> None:
        try:
            message = decode_for_collector(data)
        except UnknownVersion as error:
            self._refuse(agent, "version", str(error))
            return
        except WireError as error:
            self._refuse(agent, "bad_message", str(error))
            return
        if isinstance(message, Hello):
            self._greet(agent, message)
            return
        stream = self._agents.get(agent)
        if stream is not None:
            stream.heard = time.monotonic()
        if stream is None:
            self._refuse(agent, "unknown_stream", "Got a message before its Hello.")
        elif isinstance(message, Schema):
            self._learn(agent, stream, message.id, data)
        else:
            self._take_numbered(agent, stream, message, data)

    def _greet(self, agent: bytes, hello: Hello) -> None:
        stream = self._by_greeting.get((hello.run.id, hello.rank, hello.epoch))
        if stream is None:
            if len(self._streams) >= MOST_STREAMS:
                self._refuse(
                    agent, "store", f"Got one stream more than the {MOST_STREAMS} that a relay takes; start another."
                )
                return
            try:
                stream = self._take_up(spools.create(self._root, self._line.address, hello, encode(hello)))
            except SpoolError as error:
                self._refuse(agent, "store", str(error))
                return
        if stream is None:
            return
        if stream.agent is not None:
            self._agents.pop(stream.agent, None)
        stream.agent, stream.hello, stream.heard = agent, hello, time.monotonic()
        stream.floor = hello.first - 1  # what the agent gave up is missing here too: the collector will hear of it
        stream.high = max(stream.high, stream.floor)
        stream.acknowledged = -1
        stream.schemas.clear()
        stream.schema_bytes = 0
        self._agents[agent] = stream

    def _learn(self, agent: bytes, stream: Forwarded, number: int, data: bytes) -> None:
        more = len(data) - len(stream.schemas.get(number, b""))
        if stream.schema_bytes + more > STREAM_SCHEMA_BYTES:
            self._refuse(
                agent, "bad_message", f"Got more schemas of one stream than {STREAM_SCHEMA_BYTES:,} bytes hold."
            )
        elif more + sum(each.schema_bytes for each in self._streams.values()) > ALL_SCHEMA_BYTES:
            self._refuse(
                agent, "store", "The schemas of all streams take too much of the relay's memory; start another."
            )
        else:
            stream.schemas[number] = data
            stream.schema_bytes += more

    def _take_numbered(self, agent: bytes, stream: Forwarded, message: Report | Goodbye, data: bytes) -> None:
        if message.seq <= stream.high:
            stream.acknowledged = -1  # it did not hear of it
            return
        if message.seq > stream.high + 1:
            self._refuse(agent, "gap", f"Got number {message.seq}; need {stream.high + 1} next.")
            return
        schema = None
        if isinstance(message, Report):
            if message.schema not in stream.schemas:
                self._refuse(agent, "unknown_schema", "Got a report against a schema that was not sent.")
                return
            schema = (message.schema, stream.schemas[message.schema])
        if stream.ledger.in_memory >= WINDOW:
            self._refuse(agent, "store", "The relay's disk takes nothing more.")
            return
        stream.ledger.append(Message(message.seq, schema, data))
        stream.high = message.seq
        stream.finished = isinstance(message, Goodbye)

    def _acknowledge(self, stream: Forwarded) -> None:
        """Tell an agent what is on disk for good."""
        safe = max(stream.ledger.sync(SYNC_SECONDS), stream.floor)
        if stream.agent is not None and safe > stream.acknowledged:
            stream.acknowledged = safe
            self._send(stream.agent, Ack(safe))

    def _refuse(self, agent: bytes, reason: str, detail: str) -> None:
        stream = self._agents.pop(agent, None)
        if stream is not None:
            stream.agent = None
        self._log("relay.refused", logging.WARNING, reason=reason, detail=detail)
        self._send(agent, Nack(reason, 0 if stream is None else stream.high, detail[:2000]))  # type: ignore[arg-type]  # one of Nack's reasons

    def _send(self, agent: bytes, message: ToAgent) -> None:
        try:
            self._gate.socket.send_multipart([agent, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:  # gone, or its pipe is full; it will greet again
            return

    # -- to the collector -------------------------------------------------------------------------

    def _take_up(self, spool: Spool) -> Forwarded | None:
        hello = decoded(spool.stream)
        if hello is None:
            spool.close(delete=False)
            return None
        self._names += 1
        name = self._names.to_bytes(8, "big")
        ledger = Ledger(2 * WINDOW, self._complain)
        ledger.use(spool)

        def greeting(first: int) -> Hello:
            return structs.replace(self._streams[name].hello, first=first, waiting=len(ledger))

        courier = Courier(
            lambda data: self._line.put(name, data),
            greeting,
            ledger,
            self._complain,
            breaks=lambda: self._line.breaks,
            rate=float("inf"),
        )
        stream = Forwarded(name, hello, ledger, courier, heard=time.monotonic(), high=spool.last)
        self._streams[name] = self._by_greeting[hello.run.id, hello.rank, hello.epoch] = stream
        return stream

    def _hear(self, parts: list[bytes]) -> None:
        stream = self._streams.get(parts[0])
        if stream is None or len(parts) != 2:
            return
        before, lost = len(stream.ledger), stream.ledger.lost
        said = stream.courier.hear(parts[1])
        self.lost += stream.ledger.lost - lost
        self.forwarded += max(0, before - len(stream.ledger) - (stream.ledger.lost - lost))
        if said is not None and stream.agent is not None:
            self._send(stream.agent, said)

    def _let_go(self, stream: Forwarded) -> None:
        if stream.agent is not None:
            self._agents.pop(stream.agent, None)
            self._send(stream.agent, Ack(stream.high))  # the collector has it all
        stream.ledger.close()
        del self._streams[stream.name]
        del self._by_greeting[stream.hello.run.id, stream.hello.rank, stream.hello.epoch]

    @staticmethod
    def _complain(cause: str, text: str) -> None:
        event(f"relay.{cause}", logging.WARNING, text=text)
