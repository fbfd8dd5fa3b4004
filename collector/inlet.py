"""Inlet: where messages come in. One thread polls and drains the socket, commits, and acknowledges what is durable."""

import logging
import math
import sqlite3
import threading
import time
from typing import Literal

import zmq

from collector.acknowledgements import Acknowledgements
from collector.advice import advice_of
from collector.allowance import Allowances
from collector.errors import NotOwner
from collector.gate import Gate
from collector.health import Health
from collector.log import Seldom, event, logger
from collector.orders import Orders
from collector.pipeline import News, Pipeline
from collector.refusals import NoRoom, UnknownSchema, UnknownStream
from collector.sessions import Peer, Session, Sessions
from collector.wish_sender import WishSender
from probe_wire import (
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
"""The longest a report waits for others to share its commit, which it does where ``MANY`` shared the last one."""
MOST_SECONDS = 0.5
"""For which messages are taken in before a commit, where the disk is so slow that commits take as long."""
BEHIND_SECONDS = 5.0
"""For so long the store's upkeep waits while there are more messages than are taken in at once: what it keeps waiting adds up."""
DRAIN, MANY, MOST_NAME_BYTES = 10_000, 20, 64
READY_SECONDS, ALIVE_SECONDS, CHECK_SECONDS = 5.0, 30.0, 10.0
SINGLY_SECONDS = 60.0
"""For so long at the most each message is committed by itself, after one of many was such that the store took none of them."""
_PARTS = "Got a message of too many parts; need one, and before it a relay's name for the stream of at most 64 bytes."
_OF_A_MESSAGE = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)
"""Errors that would repeat with the message, unlike those of the disk."""
_ANSWERS = {"too_large": "bad_message", "busy": "store"}
"""What agents are told, where it is not the reason that is counted: after "store" they wait a second."""


class _Poison(Exception):
    """A message made the collector fail in a way that would repeat."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.peer = peer


class Inlet:
    """Takes in what comes through the gate and drives the pipeline. Closes the gate when it stops."""

    def __init__(self, gate: Gate, pipeline: Pipeline, health: Health, *, reports_per_second: float = 10_000.0) -> None:
        self._allowances = Allowances.of(reports_per_second)
        self._gate = gate
        self._socket = gate.socket
        self._pipeline = pipeline
        self._health = health
        self._sessions = Sessions()
        self._log = Seldom()
        self._acknowledgements = Acknowledgements(self._sessions, self._send)
        self.orders = Orders()
        self._wishes = WishSender(self._sessions, self._send, health)
        self._stop = threading.Event()
        self._ticked = self._tried = self._dry_at = time.monotonic()
        self._keeps = True
        self._commit_took = 0.0
        self._singly_until = -math.inf
        self._newest_peer: Peer = ()
        self._thread = threading.Thread(target=self._serve, name="inlet", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Commit what came in, acknowledge it, and close the socket; takes two seconds at the most."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        elif not self._socket.closed:  # never started
            self._gate.close()

    def wish(self, run_id: str, rank: int, wish: Tighten) -> None:
        """Send a wish to the agent that reports this rank's series; any thread may ask for it.

        It leaves after the commit of the batch that is being taken, or within a fifth of a second. It is sent once, and
        never to an agent that does not know of wishes, whose stream is complete, or that is not connected.
        """
        self._wishes.put(run_id, rank, wish)

    @property
    def age(self) -> float:
        """Seconds since the loop last went round."""
        return time.monotonic() - self._ticked

    @property
    def sessions(self) -> int:
        """Connections of agents that have greeted."""
        return len(self._sessions)

    @property
    def ready(self) -> bool:
        """The loop has gone round within the last five seconds, and what comes in can be made durable."""
        return self._keeps and self._thread.is_alive() and self.age < READY_SECONDS

    @property
    def alive(self) -> bool:
        """The loop has gone round within the last half minute: one that has not will not come back by itself."""
        return self._thread.is_alive() and self.age < ALIVE_SECONDS

    # -- the loop ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._stop.is_set():
                self._ticked = time.monotonic()
                if self._gate.poll(200) or self._pipeline.judges.caught_up:
                    if self._guarded_batch() >= MANY:
                        self._stop.wait(self._tried + GROUP_SECONDS - time.monotonic())
                elif time.monotonic() - self._tried > CHECK_SECONDS:
                    self._check_store()
                self._acknowledgements.tell()
                if self._gate.refresh():
                    self._drop_revoked()
                self.orders.work(self._pipeline.keep_order, self.wish)
                self._wishes.send()
                if self._dry_at >= self._tried or time.monotonic() > self._dry_at + BEHIND_SECONDS:
                    self._pipeline.upkeep()
            self._acknowledgements.tell(all_of_them=True)
        except Exception:  # noqa: BLE001 - the process must not live on deaf: readiness turns false and the log says why
            logger.exception("inlet.stopped")
        finally:
            self._gate.close(linger=100)  # time for the last acknowledgements to leave

    def _check_store(self) -> None:
        """In a quiet time, see whether what comes next can be kept."""
        self._tried = time.monotonic()
        try:
            self._pipeline.check()
        except (sqlite3.Error, OSError) as error:
            self._keeps = False
            self._log("store.unwritable", logging.ERROR, reason=str(error))
        else:
            self._keeps = True

    def _guarded_batch(self) -> int:
        """Take in what has come and make it durable; of how many messages."""
        self._tried = time.monotonic()
        taken = 0
        try:
            if not self._pipeline.take_over():  # which has a commit of its own: no message is blamed for it
                taken = self._drain(min(max(GROUP_SECONDS, self._commit_took), MOST_SECONDS))
            began = time.monotonic()
            news = self._commit(taken)
            self._commit_took = time.monotonic() - began
        except _Poison as poison:  # a message we cannot survive costs itself, not the collector
            logger.error("message.failed", exc_info=poison.__cause__)
            self._undo(f"the collector failed on a message: {poison.__cause__!r}", culprit=poison.peer)
        except (sqlite3.Error, OSError) as error:
            self._keeps = False
            self._undo(f"the store could not take it: {error}")
            self._stop.wait(0.5)  # a full disk does not empty faster for being asked more often
        else:
            self._keeps = True
            for item in news:
                self._advise(item)
        return taken

    def _commit(self, taken: int) -> list[News]:
        """Commit; where the store would not take one of many messages, those that come again are taken one by one until it shows which."""
        try:
            return self._pipeline.commit()
        except _OF_A_MESSAGE as error:
            self._singly_until = time.monotonic() + SINGLY_SECONDS if taken > 1 else -math.inf
            if taken != 1:
                raise
            raise _Poison(self._newest_peer) from error

    def _drain(self, seconds: float) -> int:
        until = time.monotonic() + seconds
        for taken in range(DRAIN if until > self._singly_until else 1):
            message = self._gate.receive()
            if message is None:
                self._dry_at = time.monotonic()
                return taken
            peer = self._newest_peer = message.before
            if not 1 <= len(peer) <= 2 or len(peer[-1]) > MOST_NAME_BYTES:
                self._refuse(peer[:1], "bad_message", _PARTS)
                continue
            try:
                self._take(peer, message.user, message.data)
            except Exception as error:
                if isinstance(error, sqlite3.Error | OSError) and not isinstance(error, _OF_A_MESSAGE):
                    raise
                raise _Poison(peer) from error
            if time.monotonic() > until:
                break
        return taken + 1

    def _take(self, peer: Peer, user: str, data: bytes) -> None:
        owner = self._gate.owner_of(user)
        if owner is None:
            self._refuse(peer, "forbidden", "The key was revoked. Ask for another where the collector runs.")
            return
        try:
            message = decode_for_collector(data)
        except MessageTooLarge as error:
            self._refuse(peer, "too_large", str(error))
        except UnknownVersion as error:
            self._refuse(peer, "version", str(error))
        except WireError as error:
            self._refuse(peer, "bad_message", str(error))
        else:
            if isinstance(message, Hello):
                self._greet(peer, user, owner, message)
                return
            session = self._sessions.speaking(peer, user)
            if session is None:
                self._refuse(peer, "unknown_stream", "Got a message before its Hello.")
            elif isinstance(message, Report) and not self._allowances.reports.take(user):
                self._refuse(peer, "busy", "Got more reports than limits.reports_per_second lets one key send.")
            else:
                self._take_of_stream(peer, session, message, data)

    def _greet(self, peer: Peer, user: str, owner: str, hello: Hello) -> None:
        if not self._pipeline.knows(hello) and not self._allowances.new_streams.take(user):
            self._refuse(peer, "busy", "Got more new streams than one key may open in so short a time.")
            return
        try:
            stream = self._pipeline.hello(hello, owner)
        except (NotOwner, NoRoom) as error:
            self._refuse(peer, "forbidden" if isinstance(error, NotOwner) else "busy", str(error))
            return
        self._sessions.open(peer, session := Session(stream, user, hello.tightens))
        self._acknowledgements.owe(peer, session)

    def _take_of_stream(self, peer: Peer, session: Session, message: Schema | Report | Goodbye, data: bytes) -> None:
        try:
            if isinstance(message, Schema):
                self._learn(peer, session, message, data)
            else:
                self._take_numbered(peer, session, message, data)
        except UnknownStream:
            self._refuse(peer, "unknown_stream", "The run was put aside to make room; greet again.")
        except UnknownSchema:
            self._refuse(peer, "unknown_schema", "Got a report against a schema that was not sent.")
        except NoRoom as error:
            self._refuse(peer, "busy", str(error))
        except BadMessage as error:
            self._refuse(peer, "bad_message", str(error))

    def _learn(self, peer: Peer, session: Session, schema: Schema, data: bytes) -> None:
        new = 0 if session.stream.schemas.get(schema.id) == schema else len(schema.columns) + len(schema.quantities)
        if not self._allowances.new_columns.take(session.user, new):
            self._refuse(peer, "busy", "Got more columns of new schemas than one key may name in so short a time.")
        else:
            self._pipeline.schema(session.stream, schema, data)

    def _take_numbered(self, peer: Peer, session: Session, message: Report | Goodbye, data: bytes) -> None:
        stream = session.stream
        if message.seq <= stream.high:
            self._health.duplicates.inc()
            self._acknowledgements.owe(peer, session)
            return
        if message.seq > stream.high + 1:
            self._refuse(peer, "gap", f"Got number {message.seq}; need {stream.high + 1} next.")
            return
        if isinstance(message, Report):
            self._pipeline.report(stream, message, data)
        else:
            self._pipeline.goodbye(stream, message, data)
        self._acknowledgements.owe(peer, session)

    # -- answers ----------------------------------------------------------------------------------

    def _refuse(self, peer: Peer, reason: str, detail: str) -> None:
        self._health.rejected.labels(reason).inc()
        session = self._sessions.end(peer)
        answer = _ANSWERS.get(reason, reason)
        self._send(peer, Nack(answer, 0 if session is None else session.stream.high, detail[:2000]))  # type: ignore[arg-type]  # one of Nack's reasons
        self._log("message.rejected", logging.WARNING, reason=reason, detail=detail)

    def _drop_revoked(self) -> None:
        for peer, session in self._sessions:
            if self._gate.owner_of(session.user) is None:
                self._acknowledgements.forget(peer)
                self._refuse(peer, "forbidden", "The key was revoked. Ask for another where the collector runs.")

    def _undo(self, detail: str, culprit: Peer | None = None) -> None:
        """Take back everything since the last commit; agents greet again and send it again."""
        self._health.store_errors.inc()
        self._pipeline.rollback()
        for peer in {*(each for each, _ in self._sessions), *([culprit] if culprit else [])}:
            reason: Literal["bad_message", "store"] = "bad_message" if peer == culprit else "store"
            self._send(peer, Nack(reason, 0, detail[:2000]))
        self._sessions.clear()
        self._acknowledgements.clear()
        event("batch.undone", logging.ERROR, detail=detail)

    def _advise(self, news: News) -> None:
        if not news.transition.act:  # not certain enough to act on, or told before
            return
        advice = advice_of(news.transition)
        delivered = [self._send(peer, advice) for peer, _ in self._sessions.heard(news.run.id)]
        if not any(delivered):
            self._health.advice_undelivered.inc()

    def _send(self, peer: Peer, message: ToAgent) -> bool:
        try:
            self._socket.send_multipart([*peer, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:  # the agent is gone or its pipe is full; it will greet again
            return False
        return True
