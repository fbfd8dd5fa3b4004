"""The least that can be called a collector: what a report costs before anything is made of it.

The same socket with the same options and CURVE, drained in one loop; each message decoded; its bytes in one table, committed
as often as the real one does (WAL, ``synchronous = FULL``), and then acknowledged as seldom. It reads no point, has no page,
judges nothing, knows no limit and no key, and could show nobody what it keeps.
"""

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import zmq
from own_collector import processor_seconds

from collector.acknowledgements import FEW, TOGETHER_SECONDS
from collector.gate import OPTIONS
from collector.inlet import GROUP_SECONDS
from probe_wire import Ack, Hello, Report, decode_for_collector, encode
from probe_wire.agent_key import AgentKey

MOST_AT_ONCE = 200
"""Messages taken before the clock is looked at."""


class BareCollector:
    """Begins with the context, in a process of its own.

    Attributes:
        inlet: where agents connect.
        key: which they need, all the same one.
    """

    def __init__(self, folder: Path) -> None:
        collector, secret = (each.decode() for each in zmq.curve_keypair())
        public, own = (each.decode() for each in zmq.curve_keypair())
        self.key = AgentKey(name="bare", collector=collector, public=public, secret=own)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, folder / "bare.db", secret), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.inlet: str = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("end")
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    @property
    def processor_seconds(self) -> float:
        """User and system time so far."""
        assert self._process.pid is not None  # noqa: S101 - started with the context
        return processor_seconds(self._process.pid)


def _serve(pipe: Connection, path: Path, secret: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE log (body BLOB)")
    high: dict[bytes, int] = {}
    told = time.monotonic()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        for option, value in OPTIONS.items():
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, secret)
        pipe.send(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
        while not pipe.poll():
            database.execute("BEGIN")
            database.executemany("INSERT INTO log VALUES (?)", _received(socket, high))
            database.execute("COMMIT")
            if len(high) < FEW or time.monotonic() > told + TOGETHER_SECONDS:
                for peer, seq in high.items():
                    socket.send_multipart([peer, encode(Ack(seq))])
                high.clear()
                told = time.monotonic()


def _received(socket: "zmq.Socket[bytes]", high: dict[bytes, int]) -> Iterator[tuple[bytes]]:
    """The reports until the next commit; ``high`` is brought up to what each peer may be told."""
    until = time.monotonic() + GROUP_SECONDS
    while (left := until - time.monotonic()) > 0:
        with suppress(zmq.Again):
            while socket.poll(int(left * 1000)) and time.monotonic() < until:
                for _ in range(MOST_AT_ONCE):
                    peer, data = socket.recv_multipart(zmq.NOBLOCK)
                    message = decode_for_collector(data)
                    if isinstance(message, Report):
                        high[peer] = message.seq
                        yield (data,)
                    elif isinstance(message, Hello):
                        high[peer] = message.first - 1
