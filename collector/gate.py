"""Gate: the socket agents come in by, and who may connect to it (CURVE, ZeroMQ RFC 26; ZAP, RFC 27).

With keys every connection is encrypted, and one whose key is not listed never becomes a peer. Without, which the
configuration allows on this machine only, whoever can reach the address may connect.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from collector.errors import BindError
from collector.health import Health
from collector.keys import Keys
from collector.log import Seldom
from probe_wire import MAX_MESSAGE_BYTES

DOMAIN = "phasewatch"
"""Always set: it shuts the door to ZMTP/1.0 peers, which would never be timed out."""
HANDSHAKE_SECONDS = 10.0
REFRESH_SECONDS = 1.0
"""How soon a revoked key is noticed."""
MOST_PARTS = 3
"""Of a message before its last that are looked at: one more than a message of ours has, so that it is refused."""
MOST_ANSWERS = 200
"""Handshakes answered before the socket is read again: a storm of strangers must not keep reports waiting."""

OPTIONS = {
    zmq.LINGER: 0,
    zmq.RCVHWM: 250,  # of each connection; of the largest messages 250 MiB, which is what one out of hand may take of our memory
    zmq.SNDHWM: 2000,
    zmq.BACKLOG: 4096,  # the default of 100 loses connections when many agents come back at once
    zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
    zmq.HEARTBEAT_IVL: 15_000,  # agents ask three times as often; of 5,000 every 5 s, this took as long as their reports
    zmq.HEARTBEAT_TIMEOUT: 15_000,
    zmq.HEARTBEAT_TTL: 45_000,
    zmq.ROUTER_HANDOVER: 0,  # with 1, whoever names a peer's identity gets its messages
}
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_ZAP = "inproc://zeromq.zap.01"  # its name in RFC 27
_MONITOR = "inproc://handshakes"


class Message(NamedTuple):
    """What came: the identity of its connection and the parts before the last, the public key that sent it, and the last part.

    The key is empty where nobody is asked for one.
    """

    before: tuple[bytes, ...]
    user: str
    data: bytes


class Gate:
    """Listens on a ROUTER socket and lets in who is listed. Used by one thread, the inlet's.

    Args:
        address: where to listen, ``tcp://`` or ``ipc://``.
        keys: who is let in; None lets in everyone.
        health: counts who was not.
        handshake_seconds: how long a peer may take to say who it is.

    Raises:
        BindError: the address cannot be listened on.
        AccessError: the collector's own key cannot be used.
    """

    def __init__(
        self, address: str, keys: Keys | None, health: Health, *, handshake_seconds: float = HANDSHAKE_SECONDS
    ) -> None:
        pair = None if keys is None else keys.pair()
        self._keys = keys
        self._health = health
        self._refresh_at = 0.0
        self._news = False
        self._log = Seldom()
        self._context = zmq.Context()
        self._asked = self._context.socket(zmq.REP)
        self.socket = self._context.socket(zmq.ROUTER)
        self._poller = zmq.Poller()
        for option, value in OPTIONS.items():
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, int(handshake_seconds * 1000))
        self.socket.setsockopt(zmq.IPV6, int(address.startswith("tcp://[")))
        self.socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
        if pair is not None:
            self._asked.bind(_ZAP)
            self.socket.setsockopt(
                zmq.ZAP_ENFORCE_DOMAIN, 1
            )  # a handler that is not there lets nobody in, not everybody
            self.socket.setsockopt(zmq.CURVE_SERVER, 1)
            self.socket.setsockopt_string(zmq.CURVE_SECRETKEY, pair.secret)
        self.socket.monitor(_MONITOR, _FAILED)
        self._failures = self._context.socket(zmq.PAIR)
        self._failures.setsockopt(zmq.RCVHWM, 0)  # at a limit libzmq's own thread would wait for us
        self._failures.connect(_MONITOR)
        try:
            with _private(address):
                self.socket.bind(address)
        except (zmq.ZMQError, OSError) as error:
            self.close()
            raise BindError(
                f"Got the inlet address {address}, which cannot be listened on: {error.strerror or error}. "
                "Is another collector running? Choose another with --inlet-address."
            ) from error
        for each in (self.socket, self._asked, self._failures):
            self._poller.register(each, zmq.POLLIN)
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def guarded(self) -> bool:
        """Only listed keys are let in."""
        return self._keys is not None

    def poll(self, milliseconds: int) -> bool:
        """Wait for messages, answering meanwhile who wants to connect; whether there is a message."""
        ready = dict(self._poller.poll(milliseconds))
        if self._asked in ready:
            self._answer()
        if self._failures in ready:
            self._count_failures()
        return self.socket in ready

    def refresh(self) -> bool:
        """Whether the list of keys has changed since this was asked last; looked at once a second."""
        if self._keys is None:
            return False
        if time.monotonic() >= self._refresh_at:
            self._refresh()
        news, self._news = self._news, False
        return news

    def _refresh(self) -> None:
        assert self._keys is not None  # noqa: S101
        self._refresh_at = time.monotonic() + REFRESH_SECONDS
        self._news |= self._keys.refresh()

    def receive(self) -> Message | None:
        """The next message; None when there is none."""
        try:
            before: tuple[bytes, ...] = (self.socket.recv(zmq.NOBLOCK),)
            last = self.socket.recv(zmq.NOBLOCK, copy=False)  # a frame knows whose key it came with
            while last.more:
                if len(before) < MOST_PARTS:
                    before += (last.bytes,)
                last = self.socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        return Message(before, self._user_of(last), last.bytes)

    def _user_of(self, frame: "zmq.Frame") -> str:
        try:
            return "" if self._keys is None else str(frame.get("User-Id"))
        except zmq.ZMQError:  # it came without a key, which stands for nobody
            return ""

    def owner_of(self, user: str) -> str | None:
        """The name that a public key stands for; None when it is no longer listed."""
        return "" if self._keys is None else self._keys.name_of(user)

    def close(self, linger: int = 0) -> None:
        """Let go of the address, within ``linger`` milliseconds."""
        if not self.socket.closed:
            self.socket.monitor(None, 0)
            self.socket.close(linger=linger)
        for each in (self._failures, self._asked):
            each.close(linger=0)
        self._context.term()

    # -- who wants to connect ---------------------------------------------------------------------

    def _answer(self) -> None:
        self._refresh()
        for _ in range(MOST_ANSWERS):
            try:
                request = self._asked.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            reason, user = self._judge(request)
            status = [b"400", reason.encode(), b""] if reason else [b"200", b"OK", user.encode()]
            self._asked.send_multipart([b"1.0", request[1], *status, b""])
            if reason:
                self._refuse(reason, request[3].decode(errors="replace"))

    def _judge(self, request: list[bytes]) -> tuple[str, str]:
        """``(why not, whose key)`` of a request to connect; either is empty."""
        assert self._keys is not None  # noqa: S101 - nobody asks otherwise
        _, _, domain, _, _, mechanism, *credentials = request
        if domain != DOMAIN.encode() or mechanism != b"CURVE" or len(credentials) != 1:
            return "handshake", ""
        user = z85.encode(credentials[0]).decode()
        if self._keys.name_of(user) is not None:
            return "", user
        return "revoked" if self._keys.knows(user) else "unlisted", ""

    def _count_failures(self) -> None:
        for _ in range(MOST_ANSWERS):
            try:
                self._failures.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._refuse("handshake", "")

    def _refuse(self, reason: str, peer: str) -> None:
        self._health.refused_connections.labels(reason).inc()
        self._log("connection.refused", logging.WARNING, reason=reason, peer=peer or "unknown")


@contextmanager
def _private(address: str) -> Iterator[None]:
    """What ``ipc://`` makes on the file system is for this user alone."""
    if not address.startswith("ipc://"):
        yield
        return
    before = os.umask(0o077)
    try:
        Path(address.removeprefix("ipc://")).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    finally:
        os.umask(before)
