"""The least that can be called a collector: what a report costs before anything is made of it.

The same socket with the same options and CURVE, drained in one loop; each message decoded; its bytes in one table, committed
every 50 ms as the real one does (WAL, ``synchronous = FULL``); then one acknowledgement for each agent. It reads no point, has
no page, judges nothing, knows no limit and no key, and nobody could be shown what it keeps.
"""

import multiprocessing
import sqlite3
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import zmq
from own_collector import processor_seconds

from collector.gate import OPTIONS
from probe_wire import Ack, Hello, Report, decode_for_collector, encode
from probe_wire.agent_key import AgentKey

COMMIT_SECONDS = 0.05
POLL_MILLISECONDS = 10


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
    database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE log (peer BLOB, seq INTEGER, body BLOB, PRIMARY KEY (peer, seq)) WITHOUT ROWID")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        for option, value in OPTIONS.items():
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, secret)
        pipe.send(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
        while not pipe.poll():
            _take_for(COMMIT_SECONDS, socket, database)


def _take_for(seconds: float, socket: "zmq.Socket[bytes]", database: sqlite3.Connection) -> None:
    """What comes in that time, kept, then acknowledged."""
    until, high = time.monotonic() + seconds, dict[bytes, int]()
    database.execute("BEGIN")
    while time.monotonic() < until:
        if not socket.poll(POLL_MILLISECONDS):
            continue
        try:
            while time.monotonic() < until:
                peer, data = socket.recv_multipart(zmq.NOBLOCK)
                message = decode_for_collector(data)
                if isinstance(message, Report):
                    database.execute("INSERT OR IGNORE INTO log VALUES (?, ?, ?)", (peer, message.seq, data))
                    high[peer] = message.seq
                elif isinstance(message, Hello):
                    high[peer] = message.first - 1
        except zmq.Again:
            continue
    database.execute("COMMIT")
    for peer, seq in high.items():
        socket.send_multipart([peer, encode(Ack(seq))])
