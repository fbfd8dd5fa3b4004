"""A line between an agent and the collector that can be cut, silent, slow or noisy: a TCP relay of one thread."""

import random
import select
import socket
import struct
import threading
import time
from typing import Self


class RoughLine:
    """Listens on ``address`` and passes on to the target's port; what it does in between can change at any time.

    Attributes:
        silent: takes everything, passes nothing on: a black hole.
        slow: passes on 512 bytes every 20 ms.
        flips: the share of packets of which one bit is turned over.
        flipped: how many were.
    """

    def __init__(self, target: str) -> None:
        self._target = int(target.rsplit(":", 1)[1])
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self.silent = False
        self.slow = False
        self.flips = 0.0
        self.flipped = 0
        self._noise = random.Random(0)
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._cut = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._relay, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        self._reset()
        self._listening.close()

    def cut(self) -> None:
        """Reset every connection."""
        self._cut.set()

    def _relay(self) -> None:
        while not self._stop.is_set():
            if self._cut.is_set():
                self._cut.clear()
                self._reset()
            watched = [self._listening, *(() if self.silent else self._pairs)]
            ready, _, _ = select.select(watched, [], [], 0.02)
            for one in ready:
                if one is self._listening:
                    self._connect()
                elif one in self._pairs:
                    self._pass_on(one)
            if self.slow:
                time.sleep(0.02)

    def _connect(self) -> None:
        agent, _ = self._listening.accept()
        try:
            collector = socket.create_connection(("127.0.0.1", self._target), timeout=1)
        except OSError:
            agent.close()
            return
        self._pairs |= {agent: collector, collector: agent}

    def _pass_on(self, one: socket.socket) -> None:
        try:
            data = bytearray(one.recv(512 if self.slow else 65536))
            if data and self._noise.random() < self.flips:
                data[self._noise.randrange(len(data))] ^= 1 << self._noise.randrange(8)
                self.flipped += 1
            self._pairs[one].sendall(data)
        except OSError:
            data = bytearray()
        if not data:
            other = self._pairs.pop(one)
            del self._pairs[other]
            one.close()
            other.close()

    def _reset(self) -> None:
        for one in self._pairs:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
            one.close()
        self._pairs.clear()
