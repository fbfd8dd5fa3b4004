"""Feed: tells the open pages what is new. Written to by the inlet thread, read by the page's event loop.

A page is sent two kinds of news. A *tick* says how far a run has come; only the newest of each run
matters, so ticks are merged while they wait: a page gets ten messages a second at the most, one of many
pages two. A *transition* is sent whole and never silently dropped: where too many wait, the page is told to
load everything again. On every (re)connection the page hears `hello` and asks for what it missed,
so nothing here has to be remembered for a page that is away.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable

import msgspec

from collector.phases.transition import Transition
from probe_wire import Run

RETRY_MILLISECONDS = 2000
MESSAGES_PER_SECOND, MOST_SECONDS_BETWEEN = 20, 0.5
"""To all pages together, unless one of them would then be told less often than every half second."""


class Feed:
    """A Sink for transitions and the tick of every committed report, handed over to each open page.

    ``handle`` and ``tick`` may be called from any thread, cost a few microseconds a page and never
    block. ``on_tick_dropped`` is called where a page read so slowly that a tick was overwritten
    while an earlier message was still on its way.
    """

    def __init__(
        self,
        *,
        pages: int = 200,
        waiting: int = 256,
        seconds_between: float = 0.1,
        keep_alive_seconds: float = 15.0,
        on_tick_dropped: Callable[[], None] = lambda: None,
        on_overflow: Callable[[], None] = lambda: None,
    ) -> None:
        self.pages = pages
        self._waiting = waiting
        self._seconds_between = seconds_between
        self._keep_alive_seconds = keep_alive_seconds
        self._on_tick_dropped = on_tick_dropped
        self._on_overflow = on_overflow
        self._lock = threading.RLock()  # a signal handler may close the feed while its own thread holds it
        self._boxes: set[_Mailbox] = set()
        self._closed = False

    @property
    def full(self) -> bool:
        """No further page can be served."""
        return len(self._boxes) >= self.pages

    def handle(self, run: Run, transition: Transition) -> None:
        """Tell every page of a transition."""
        news = {"run": run.id, "name": run.name, "transition": transition}
        message = _message("transition", news)  # msgspec writes NaN as null, which JSON can say
        with self._lock:
            for box in self._boxes:
                if not box.put_transition(message):
                    self._on_overflow()

    def tick(self, run_id: str, step: int, frame: int) -> None:
        """Tell every page that a run has come this far."""
        with self._lock:
            for box in self._boxes:
                if not box.put_tick(run_id, step, frame):
                    self._on_tick_dropped()

    def close(self) -> None:
        """End every stream: call it before the server is asked to stop, which waits for open responses."""
        with self._lock:
            self._closed = True
            for box in self._boxes:
                box.wake()

    async def stream(self) -> AsyncGenerator[bytes]:
        """The server-sent events of one page, until it leaves or the feed is closed."""
        box = _Mailbox(asyncio.get_running_loop(), self._waiting)
        with self._lock:
            self._boxes.add(box)
        try:
            yield f"retry: {RETRY_MILLISECONDS}\n".encode() + _message("hello", {})
            while not self._closed:
                await box.wait(self._keep_alive_seconds)
                with self._lock:
                    news = box.take()
                if not self._closed:
                    yield news or b": keep-alive\n\n"
                    await self._rest(box)
        finally:
            with self._lock:
                self._boxes.discard(box)

    async def _rest(self, box: "_Mailbox") -> None:
        """Let news gather: a page that is told of something asks for it, and many pages must not ask all the time."""
        with self._lock:
            box.sent = True
            crowded = min(len(self._boxes) / MESSAGES_PER_SECOND, MOST_SECONDS_BETWEEN)
        if self._seconds_between > 0 and not self._closed:
            await asyncio.sleep(max(self._seconds_between, crowded))


class _Mailbox:
    """The news that waits for one page. All methods but ``wait`` are called under the feed's lock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, waiting: int) -> None:
        self.sent = True
        self._loop = loop
        self._awake = asyncio.Event()
        self._woken = False
        self._ticks: dict[str, tuple[int, int]] = {}
        self._transitions: deque[bytes] = deque()
        self._waiting = waiting
        self._reload = False

    def put_tick(self, run_id: str, step: int, frame: int) -> bool:
        """False when it replaced a tick that a slow page should have had by now."""
        known = run_id in self._ticks
        if known or len(self._ticks) < self._waiting:
            self._ticks[run_id] = (step, frame)
        else:
            self._reload = True  # news of so many runs at once is told in one word
        self.wake()
        return self.sent or not known

    def put_transition(self, message: bytes) -> bool:
        """False when there was no room, and the page must load everything again."""
        fits = len(self._transitions) < self._waiting and not self._reload
        if fits:
            self._transitions.append(message)
        else:
            self._transitions.clear()
            self._reload = True
        self.wake()
        return fits

    def take(self) -> bytes:
        """Everything that waits, as one piece of the stream; empty when nothing does."""
        parts = [_message("reload", {})] if self._reload else list(self._transitions)
        if self._ticks:
            ticks = [{"run": run, "step": step, "frame": frame} for run, (step, frame) in self._ticks.items()]
            parts.append(_message("tick", ticks))
        self._ticks, self._reload, self._woken, self.sent = {}, False, False, False
        self._transitions.clear()
        return b"".join(parts)

    def wake(self) -> None:
        """Let the page's task run. A woken task is not woken again until it has taken its news."""
        if self._woken:
            return
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._awake.set)
        except RuntimeError:  # the loop is gone, and its pages with it
            self._woken = False

    async def wait(self, seconds: float) -> None:
        """Return when there is news, or when the time is up."""
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            return
        self._awake.clear()


def _message(event: str, body: object) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"
