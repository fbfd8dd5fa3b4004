"""Line: a DEALER socket to the collector or to a relay, with the options that keep the process safe that holds it."""

import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from typing import final

import zmq

from probe_wire.agent_key import AgentKey

WINDOW = 512
"""Messages that may be on the way at once."""
MOST_AT_ONCE = 1000
RENEW_SECONDS = 15.0
"""Without an answer for so long the connection is made anew: libzmq never tries again where a handshake was refused or garbled."""

LOOK_SECONDS = 0.02
"""How often it is looked whether the connection still stands: well within the tenth of a second after which libzmq makes another."""


class Reach(Enum):
    """How far the last connection came."""

    NOBODY = 0
    CONNECTED = zmq.EVENT_CONNECTED
    HUNG_UP = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    SPEAKS_OTHERWISE = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    """This or the former where one side asks for a key and the other has none, or that of another collector."""
    KEY_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
    LET_IN = zmq.EVENT_HANDSHAKE_SUCCEEDED


_REACHES = {int(reach.value): reach for reach in Reach if reach is not Reach.NOBODY}
_REFUSED = Reach.KEY_REFUSED, Reach.SPEAKS_OTHERWISE
_EVENTS = sum(_REACHES) | zmq.EVENT_DISCONNECTED
_EVENT = struct.Struct("=H")  # what libzmq's monitor begins a message with
_jitter = random.Random()  # its own stream: training's is not touched


@final
class Line:
    """See the module. Not thread-safe.

    Args:
        address: where to.
        key: proves who is calling to a collector that asks for it.
        complain: told what went wrong, by cause.

    Attributes:
        breaks: how often a connection was lost. Whoever answers on the next one knows nothing of what was said on the last.
        reach: how far the last one came.
    """

    def __init__(
        self,
        address: str,
        key: AgentKey | None = None,
        complain: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self.address = address
        self._key = key
        self._complain = complain
        self._asked: float | None = None  # since when nothing was answered
        self._socket: zmq.Socket[bytes] | None = None
        self._refused = False
        self._look_at = 0.0
        self.breaks = 0
        self.reach = Reach.NOBODY

    def connect(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        """Open the socket. Connecting is asynchronous: a missing collector is not an error."""
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)  # the default waits for ever in context.term()
        socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing may hide in a pipe to a peer that is not there
        socket.setsockopt(zmq.SNDHWM, WINDOW)
        socket.setsockopt(zmq.RCVHWM, WINDOW)
        socket.setsockopt(zmq.MAXMSGSIZE, 64 * 1024)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 30_000)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 15_000)
        if self._key is not None:
            socket.curve_serverkey = self._key.collector.encode()
            socket.curve_publickey = self._key.public.encode()
            socket.curve_secretkey = self._key.secret.encode()
        name = f"inproc://line-{id(self)}"
        socket.monitor(name, _EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # at a limit libzmq's own thread would wait for us
        self._monitor.connect(name)
        socket.connect(self.address)
        self._socket = socket

    def disconnect(self) -> None:
        """Close the socket; what is in it is lost."""
        if self._socket is not None:
            self._socket.monitor(None, 0)
            self._monitor.close(linger=0)
            self._socket.close(linger=0)
            self._socket = None

    @property
    def socket(self) -> "zmq.Socket[bytes]":
        """The socket, to wait on with others."""
        assert self._socket is not None  # noqa: S101 - connected before the loop starts
        return self._socket

    def put(self, *parts: bytes) -> bool:
        """Send a message if it can leave now, and not where the connection has just been lost."""
        now = time.monotonic()
        if now >= self._look_at and self._look(now):
            return False
        if self._asked is None:
            self._asked = now
        elif now - self._asked > RENEW_SECONDS + _jitter.uniform(0, 5):
            self._renew()
            self._asked = now
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, milliseconds: int) -> Iterator[list[bytes]]:
        """What has come, waiting at most so long for the first; a flood is left for the next call."""
        heard = self.socket.poll(milliseconds, zmq.POLLIN)
        self._look(time.monotonic())
        if not heard:
            return
        for _ in range(MOST_AT_ONCE):
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._asked = None
            yield parts

    def _look(self, now: float) -> bool:
        """Take in what became of the connection; whether it was lost."""
        self._look_at = now + LOOK_SECONDS
        before = self.breaks
        with suppress(zmq.Again):
            while True:
                (number,) = _EVENT.unpack_from(self._monitor.recv_multipart(zmq.NOBLOCK)[0])
                self.breaks += number == zmq.EVENT_DISCONNECTED
                reach = _REACHES.get(number)
                self._refused |= reach in _REFUSED
                # What became of one connection tells more than that the next is tried.
                if reach is not None and (reach is not Reach.CONNECTED or self.reach is Reach.NOBODY):
                    self.reach = reach
        return self.breaks > before

    def _renew(self) -> None:
        """Connect again. What is on its way is lost; whoever sent it goes back."""
        if self._refused:
            self._refused = False
            self._complain(
                "refused",
                f"the collector at {self.address} does not let this agent in: it asks for a key, for another one, or for none. "
                "Where it runs: probe-collector keys create NAME --out NAME.key; here: PHASEWATCH_KEY=NAME.key",
            )
        with suppress(zmq.ZMQError):
            self.socket.disconnect(self.address)
        self.breaks += 1  # libzmq tells of no disconnection that was asked for
        self.socket.connect(self.address)
