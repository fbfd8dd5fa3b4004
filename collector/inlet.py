"""Inlet: where messages come in. One thread polls and drains the socket, commits, and acknowledges what is durable."""

import logging
import sqlite3
import threading
import time
from collections import deque
from typing import Literal, NamedTuple

import zmq
from msgspec import structs

from collector.errors import BindError
from collector.health import Health
from collector.log import event, logger
from collector.pipeline import News, Pipeline, UnknownSchema, UnknownStream
from collector.store.sqlite import Stream
from probe_wire import (
    MAX_MESSAGE_BYTES,
    Ack,
    Advice,
    BadMessage,
    Goodbye,
    Hello,
    MessageTooLarge,
    Nack,
    Report,
    Schema,
    Tighten,
    ToAgent,
    UnknownVersion,
    WireError,
    decode_for_collector,
    encode,
)

GROUP_SECONDS = 0.05
"""The longest a report waits for others to share its commit."""
DRAIN = 1000
SESSIONS = 20_000
MOST_WISHES = 100
"""Wishes that may wait for the inlet's thread."""


class Session(NamedTuple):
    """The stream an agent greeted for, and whether it takes wishes."""

    stream: Stream
    tightens: bool


class _Poison(Exception):
    """A message made the collector fail in a way that would repeat."""

    def __init__(self, identity: bytes) -> None:
        super().__init__()
        self.identity = identity


class Inlet:
    """Listens on a ROUTER socket and drives the pipeline.

    Raises:
        BindError: the address cannot be listened on.
    """

    def __init__(self, address: str, pipeline: Pipeline, health: Health) -> None:
        self._pipeline = pipeline
        self._health = health
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._sessions: dict[bytes, Session] = {}
        self._to_acknowledge: set[bytes] = set()
        self._unsent: deque[tuple[str, int, Tighten]] = deque()
        self._stop = threading.Event()
        self._ticked = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="inlet", daemon=True)
        socket = self._socket
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 2000)
        socket.setsockopt(zmq.SNDHWM, 2000)
        socket.setsockopt(zmq.BACKLOG, 4096)  # the default of 100 loses connections when many agents come back at once
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 15_000)
        socket.setsockopt_string(
            zmq.ZAP_DOMAIN, "phasewatch"
        )  # shuts the door to ZMTP/1.0 peers, which are never timed out
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close()
            self._context.term()
            raise BindError(
                f"Got the inlet address {address}, which cannot be listened on: {error.strerror or error}. "
                "Is another collector running? Choose another with --inlet-address."
            ) from error
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what came in, acknowledge it, and close the socket; takes two seconds at the most."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        elif not self._socket.closed:  # never started
            self._close()

    def wish(self, run_id: str, rank: int, wish: Tighten) -> None:
        """Send a wish to the agent that reports this rank's series; any thread may ask for it.

        It leaves after the commit of the batch that is being taken, or within a fifth of a second. It is sent once, and
        never to an agent that does not know of wishes, whose stream is complete, or that is not connected.
        """
        if len(self._unsent) >= MOST_WISHES:
            self._account("too many", run_id, rank, wish)
        else:
            self._unsent.append((run_id, rank, structs.replace(wish, reason=wish.reason[:2000])))

    @property
    def alive(self) -> bool:
        """The loop has gone round within the last five seconds."""
        return self._thread.is_alive() and time.monotonic() - self._ticked < 5.0

    # -- the loop ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._stop.is_set():
                self._ticked = time.monotonic()
                if self._socket.poll(200):
                    self._guarded_batch()
                self._send_wishes()
        except Exception:  # noqa: BLE001 - the process must not live on deaf: readiness turns false and the log says why
            logger.exception("inlet.stopped")
        finally:
            self._close()

    def _close(self) -> None:
        self._socket.close(linger=100)  # time for the last acknowledgements to leave
        self._context.term()

    def _guarded_batch(self) -> None:
        try:
            self._drain()
            news = self._pipeline.commit()
        except _Poison as poison:  # a message we cannot survive costs itself, not the collector
            logger.error("message.failed", exc_info=poison.__cause__)
            self._undo(f"the collector failed on a message: {poison.__cause__!r}", culprit=poison.identity)
        except (sqlite3.Error, OSError) as error:
            self._undo(f"the store could not take it: {error}")
            self._stop.wait(0.5)  # a full disk does not empty faster for being asked more often
        else:
            for identity in self._to_acknowledge:
                session = self._sessions.get(identity)
                if session is not None:
                    self._send(identity, Ack(session.stream.high))
            self._to_acknowledge.clear()
            for item in news:
                self._advise(item)

    def _drain(self) -> None:
        until = time.monotonic() + GROUP_SECONDS
        for _ in range(DRAIN):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(parts) != 2:
                self._refuse(parts[0], "bad_message", f"Got a message of {len(parts) - 1} parts; need one.")
                continue
            try:
                self._take(parts[0], parts[1])
            except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError) as error:
                raise _Poison(parts[0]) from error
            except (sqlite3.Error, OSError):
                raise
            except Exception as error:
                raise _Poison(parts[0]) from error
            if time.monotonic() > until:
                return

    def _take(self, identity: bytes, data: bytes) -> None:
        try:
            message = decode_for_collector(data)
        except MessageTooLarge as error:
            self._refuse(identity, "too_large", str(error))
        except UnknownVersion as error:
            self._refuse(identity, "version", str(error))
        except WireError as error:
            self._refuse(identity, "bad_message", str(error))
        else:
            if isinstance(message, Hello):
                self._greet(identity, message)
            elif identity not in self._sessions:
                self._refuse(identity, "unknown_stream", "Got a message before its Hello.")
            else:
                self._take_of_stream(identity, message, data)

    def _greet(self, identity: bytes, hello: Hello) -> None:
        if len(self._sessions) >= SESSIONS and identity not in self._sessions:
            self._sessions.pop(next(iter(self._sessions)))  # the longest unheard; if it lives, it will greet again
        self._sessions.pop(identity, None)
        self._sessions[identity] = Session(self._pipeline.hello(hello), hello.tightens)
        self._to_acknowledge.add(identity)

    def _take_of_stream(self, identity: bytes, message: Schema | Report | Goodbye, data: bytes) -> None:
        stream = self._sessions[identity].stream
        try:
            if isinstance(message, Schema):
                self._pipeline.schema(stream, message, data)
            else:
                self._take_numbered(identity, stream, message, data)
        except UnknownStream:
            self._refuse(identity, "unknown_stream", "The run was put aside to make room; greet again.")
        except UnknownSchema:
            self._refuse(identity, "unknown_schema", "Got a report against a schema that was not sent.")
        except BadMessage as error:
            self._refuse(identity, "bad_message", str(error))

    def _take_numbered(self, identity: bytes, stream: Stream, message: Report | Goodbye, data: bytes) -> None:
        if message.seq <= stream.high:
            self._health.duplicates.inc()
            self._to_acknowledge.add(identity)
            return
        if message.seq > stream.high + 1:
            self._refuse(identity, "gap", f"Got number {message.seq}; need {stream.high + 1} next.")
            return
        if isinstance(message, Report):
            self._pipeline.report(stream, message, data)
        else:
            self._pipeline.goodbye(stream, message, data)
        self._to_acknowledge.add(identity)

    # -- answers ----------------------------------------------------------------------------------

    def _refuse(self, identity: bytes, reason: str, detail: str) -> None:
        self._health.rejected.labels(reason).inc()
        session = self._sessions.pop(identity, None)  # what follows in the pipe is refused until the agent greets again
        answer = "bad_message" if reason == "too_large" else reason
        self._send(identity, Nack(answer, 0 if session is None else session.stream.high, detail[:2000]))  # type: ignore[arg-type]  # one of Nack's reasons
        event("message.rejected", logging.WARNING, reason=reason, detail=detail)

    def _undo(self, detail: str, culprit: bytes | None = None) -> None:
        """Take back everything since the last commit; agents greet again and send it again."""
        self._health.store_errors.inc()
        self._pipeline.rollback()
        for identity in {*self._sessions, *([culprit] if culprit else [])}:
            reason: Literal["bad_message", "store"] = "bad_message" if identity == culprit else "store"
            self._send(identity, Nack(reason, 0, detail[:2000]))
        self._sessions.clear()
        self._to_acknowledge.clear()
        event("batch.undone", logging.ERROR, detail=detail)

    def _advise(self, news: News) -> None:
        t = news.transition
        if not t.act:  # not certain enough to act on, or told before
            return
        way = (t.from_phase, t.to_phase)
        if t.state == "retracted":  # the run is back where it came from: a loop that acts on phases must see that
            way = (t.to_phase, t.from_phase)
        advice = Advice(
            t.machine,
            *way,
            t.happened_step,
            t.known_step,
            t.confidence,
            t.severity,
            t.advice,
            t.evidence.sentence[:2000],
            t.undo,
        )
        listeners = [identity for identity, of in self._sessions.items() if of.stream.run_id == news.run.id]
        delivered = [self._send(identity, advice) for identity in listeners]
        if not any(delivered):
            self._health.advice_undelivered.inc()

    def _send_wishes(self) -> None:
        for _ in range(len(self._unsent)):
            run_id, rank, wish = self._unsent.popleft()
            living = (
                (identity, session.tightens)
                for identity, session in reversed(self._sessions.items())  # an agent that comes back is another session
                if (session.stream.run_id, session.stream.rank) == (run_id, rank) and not session.stream.finished
            )
            identity, tightens = next(living, (b"", False))
            if not identity:
                self._account("no stream", run_id, rank, wish)
            elif not tightens:
                self._account("not understood", run_id, rank, wish)
            else:
                self._account("sent" if self._send(identity, wish) else "undelivered", run_id, rank, wish)

    def _account(self, answer: str, run_id: str, rank: int, wish: Tighten) -> None:
        self._health.wishes.labels(answer).inc()
        event("wish." + answer.replace(" ", "_"), run=run_id, rank=rank, quantity=wish.quantity, times=wish.times)

    def _send(self, identity: bytes, message: ToAgent) -> bool:
        try:
            self._socket.send_multipart([identity, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:  # the agent is gone or its pipe is full; it will greet again
            return False
        return True
