"""Line: a DEALER socket to the collector or to a relay, with the options that keep the process safe that holds it."""

from collections.abc import Iterator
from typing import final

import zmq

from probe_wire.agent_key import AgentKey

WINDOW = 512
"""Messages that may be on the way at once."""
MOST_AT_ONCE = 1000


@final
class Line:
    """See the module. Not thread-safe.

    Args:
        address: where to.
        key: proves who is calling to a collector that asks for it.
    """

    def __init__(self, address: str, key: AgentKey | None = None) -> None:
        self.address = address
        self._key = key
        self._socket: zmq.Socket[bytes] | None = None

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
        socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 6000)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 6000)
        if self._key is not None:
            socket.curve_serverkey = self._key.collector.encode()
            socket.curve_publickey = self._key.public.encode()
            socket.curve_secretkey = self._key.secret.encode()
        socket.connect(self.address)
        self._socket = socket

    def disconnect(self) -> None:
        """Close the socket; what is in it is lost."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    @property
    def socket(self) -> "zmq.Socket[bytes]":
        """The socket, to wait on with others."""
        assert self._socket is not None  # noqa: S101 - connected before the loop starts
        return self._socket

    def put(self, *parts: bytes) -> bool:
        """Send a message if it can leave now."""
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, milliseconds: int) -> Iterator[list[bytes]]:
        """What has come, waiting at most so long for the first; a flood is left for the next call."""
        if not self.socket.poll(milliseconds, zmq.POLLIN):
            return
        for _ in range(MOST_AT_ONCE):
            try:
                yield self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
