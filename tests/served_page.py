"""The page's own server on a real socket of this machine."""

import socket
import threading
import time
from pathlib import Path

from collector.health import Health
from collector.live import Live
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.tokens import Tokens
from collector.web import Feed, create_app
from collector.web.server import Server


class Page:
    """A server over an empty store, in a thread of its own, on a free port of this machine."""

    def __init__(self, folder: Path, tokens: Tokens | None = None, tls: tuple[str, str] = ("", "")) -> None:
        store = Store(folder / "s.db")
        store.close()
        self.health = Health()
        self.feed = Feed()
        app = create_app(
            Reader(folder / "s.db"),
            Live(),
            self.feed,
            lambda: b"a 1\n",
            lambda: True,
            health=self.health,
            tokens=tokens,
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.server = Server(app, self.feed, tls)
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self.server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, request: bytes) -> bytes:
        """All that comes back until the server closes."""
        with self.connect() as client:
            client.sendall(request)
            return rest_of(client)

    def well(self) -> bool:
        return self.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").endswith(
            b"\r\n\r\nok\n"
        )

    def close(self) -> None:
        self.feed.close()
        self.server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._socket.close()


def rest_of(client: socket.socket) -> bytes:
    found = b""
    try:
        while part := client.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found
