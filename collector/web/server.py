"""Server: uvicorn with a bound on everything a client can make it wait for or keep."""

import asyncio
import signal
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from collector.log import event
from collector.web.feed import Feed

REQUEST_SECONDS = 10.0
"""From the first byte, or from connecting, until a request's headers are whole."""
READ_SECONDS = 30.0
"""How long a client may leave an answer unread."""
HEADER_BYTES = 16 * 1024
MOST_CONNECTIONS = 500
"""Twice the pages that may be open; one more is answered with 503."""


class BoundedConnection(H11Protocol):
    """A connection that is cut when its client dawdles: uvicorn itself waits for ever for a request that has begun."""

    _request_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        # At most one byte, else a short answer left unread, then closed, is waited for for ever; of none a TLS transport takes each look at
        # an empty buffer for a reason to pause or to go on, in turns.
        transport.set_write_buffer_limits(high=1)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Bytes came: of a request, or of what a client sends when it is not its turn."""
        for start in range(0, len(data), HEADER_BYTES):  # h11 takes headers of any size that come whole
            if not self.transport.is_closing():
                super().data_received(data[start : start + HEADER_BYTES])
        self._expect()

    def _expect(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_expecting()
        elif self._request_timer is None and not self.transport.is_closing():
            self._request_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)  # resumes writing
        self._stop_expecting()

    def _stop_expecting(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None


class Server(uvicorn.Server):
    """Ends the page's event streams as soon as it is asked to stop.

    Args:
        app: what is served.
        feed: the page's event streams.
        tls: certificate and key, PEM files; both empty for plain HTTP.
    """

    def __init__(self, app: ASGIApp, feed: Feed, tls: tuple[str, str] = ("", "")) -> None:
        cert, key = tls
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedConnection,
                ws="none",
                lifespan="on",
                log_level="error",  # a flood of broken requests must not become one of log lines
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who asks is read from them by ourselves, and only behind a proxy
                timeout_graceful_shutdown=2,  # uvicorn otherwise waits for ever on open event streams
                limit_concurrency=MOST_CONNECTIONS,
                h11_max_incomplete_event_size=HEADER_BYTES,
                ssl_certfile=cert or None,
                ssl_keyfile=key or None,
            )
        )
        self._feed = feed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop arrived."""
        event("collector.stopping", signal=signal.Signals(sig).name)
        self._feed.close()
        super().handle_exit(sig, frame)
