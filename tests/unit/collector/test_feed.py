"""The feed: what a page is told, how often, and what happens to one that does not listen."""

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import httpx
import msgspec
import uvicorn

from collector.live import Live
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.web import Feed, create_app
from tests.collector_fixtures import digits_run, transition

RUN = digits_run()


def feed(**settings: object) -> Feed:
    return Feed(**{"seconds_between": 0.0, **settings})  # type: ignore[arg-type]


def on_page(of: Feed, scene: Callable[[AsyncIterator[bytes]], Coroutine[None, None, None]]) -> None:
    """Play a scene with a page that has been greeted."""

    async def play() -> None:
        stream = of.stream()
        async with asyncio.timeout(10):
            await anext(stream)
            await scene(stream)
            await stream.aclose()

    asyncio.run(play())


def read(piece: bytes) -> list[tuple[str, object]]:
    """The events of a piece of the stream."""
    events = []
    for block in piece.decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        events.append((lines["event"], json.loads(lines["data"])))
    return events


def test_a_page_is_greeted_and_told_when_to_try_again() -> None:
    async def play() -> None:
        stream = feed().stream()
        assert await anext(stream) == b"retry: 2000\nevent: hello\ndata: {}\n\n"
        await stream.aclose()

    asyncio.run(play())


def test_a_tick_from_another_thread_reaches_the_page() -> None:
    news = feed()

    async def scene(stream: AsyncIterator[bytes]) -> None:
        threading.Thread(target=news.tick, args=("r1", 520, 41)).start()
        assert read(await anext(stream)) == [("tick", [{"run": "r1", "step": 520, "frame": 41}])]

    on_page(news, scene)


def test_ticks_that_wait_are_merged_to_the_newest_of_each_run() -> None:
    news = feed()

    async def scene(stream: AsyncIterator[bytes]) -> None:
        for step in range(1000):
            news.tick("r1", step, step)
            news.tick("r2", 2 * step, step)
        ((event, ticks),) = read(await anext(stream))
        assert event == "tick"
        assert ticks == [{"run": "r1", "step": 999, "frame": 999}, {"run": "r2", "step": 1998, "frame": 999}]

    on_page(news, scene)


def test_a_busy_run_costs_a_page_no_more_messages_than_promised() -> None:
    news = feed(seconds_between=0.2)

    async def scene(stream: AsyncIterator[bytes]) -> None:
        stop = time.monotonic() + 1.0

        def train() -> None:
            step = 0
            while time.monotonic() < stop:
                news.tick("r1", step := step + 1, step)
                time.sleep(0.002)

        training = threading.Thread(target=train)
        training.start()
        messages = 0
        while time.monotonic() < stop:
            await anext(stream)
            messages += 1
        await asyncio.to_thread(training.join)
        assert 2 <= messages <= 7  # one at once, then one every 0.2 s

    on_page(news, scene)


def test_a_transition_is_sent_whole_with_nan_as_null() -> None:
    news = feed()
    change = transition(
        evidence=msgspec.structs.replace(transition().evidence, noise=math.nan, labels={"layer": "fc\n1"})
    )

    async def scene(stream: AsyncIterator[bytes]) -> None:
        news.handle(RUN, change)
        ((event, body),) = read(await anext(stream))
        assert event == "transition"
        assert isinstance(body, dict)
        assert (body["run"], body["name"]) == (RUN.id, RUN.name)
        assert body["transition"]["happened_step"] == 538
        assert body["transition"]["evidence"]["noise"] is None
        assert body["transition"]["evidence"]["labels"] == {"layer": "fc\n1"}

    on_page(news, scene)


def test_transitions_keep_their_order_and_come_before_the_tick() -> None:
    news = feed()

    async def scene(stream: AsyncIterator[bytes]) -> None:
        news.tick("r1", 1, 1)
        for ordinal in (1, 2, 3):
            news.handle(RUN, transition(ordinal=ordinal))
        events = read(await anext(stream))
        assert [event for event, _ in events] == ["transition"] * 3 + ["tick"]
        assert [body["transition"]["ordinal"] for _, body in events[:3]] == [1, 2, 3]  # type: ignore[index]

    on_page(news, scene)


def test_too_many_waiting_transitions_become_one_word_to_load_again_and_are_counted() -> None:
    overflows: list[int] = []
    news = feed(waiting=3, on_overflow=lambda: overflows.append(1))

    async def scene(stream: AsyncIterator[bytes]) -> None:
        for ordinal in range(5):
            news.handle(RUN, transition(ordinal=ordinal))
        assert read(await anext(stream)) == [("reload", {})]
        assert len(overflows) == 2
        news.handle(RUN, transition())
        assert [event for event, _ in read(await anext(stream))] == ["transition"]

    on_page(news, scene)


def test_ticks_of_more_runs_than_can_wait_become_one_word_to_load_again() -> None:
    news = feed(waiting=3)

    async def scene(stream: AsyncIterator[bytes]) -> None:
        for number in range(5):
            news.tick(f"r{number}", 1, 1)
        assert [event for event, _ in read(await anext(stream))] == ["reload", "tick"]

    on_page(news, scene)


def test_a_page_that_reads_too_slowly_misses_ticks_and_each_is_counted() -> None:
    dropped: list[int] = []
    news = feed(on_tick_dropped=lambda: dropped.append(1))

    async def scene(stream: AsyncIterator[bytes]) -> None:
        news.tick("r1", 1, 1)
        news.tick("r1", 2, 2)  # merged before anything was sent: nothing is late
        await anext(stream)  # the page now holds a message it has not finished reading
        assert dropped == []
        for step in (3, 4, 5):
            news.tick("r1", step, step)
        assert dropped == [1, 1]
        assert read(await anext(stream)) == [("tick", [{"run": "r1", "step": 5, "frame": 5}])]

    on_page(news, scene)


def test_a_feed_without_news_keeps_the_connection_alive() -> None:
    async def scene(stream: AsyncIterator[bytes]) -> None:
        assert await anext(stream) == b": keep-alive\n\n"
        assert await anext(stream) == b": keep-alive\n\n"

    on_page(feed(keep_alive_seconds=0.02), scene)


def test_closing_ends_a_waiting_stream_and_refuses_new_ones_nothing_but_a_greeting() -> None:
    news = feed()

    async def scene(stream: AsyncIterator[bytes]) -> None:
        threading.Timer(0.05, news.close).start()
        assert [piece async for piece in stream] == []
        assert len([piece async for piece in news.stream()]) == 1

    on_page(news, scene)


def test_a_signal_handler_may_close_the_feed_in_the_midst_of_its_own_work() -> None:
    news = feed()
    with news._lock:
        news.close()


def test_a_page_that_leaves_is_forgotten() -> None:
    news = feed(pages=1)

    async def scene(stream: AsyncIterator[bytes]) -> None:
        assert news.full
        await stream.aclose()  # type: ignore[attr-defined]
        assert not news.full

    on_page(news, scene)


def test_telling_a_page_whose_loop_is_gone_raises_nothing() -> None:
    news = feed()
    loop = asyncio.new_event_loop()
    stream = news.stream()
    greeting: Awaitable[bytes] = anext(stream)
    loop.run_until_complete(greeting)  # type: ignore[arg-type]
    loop.close()
    news.tick("r1", 1, 1)
    news.handle(RUN, transition())


def test_uvicorn_stops_at_once_while_a_page_is_open(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    news = Feed()
    app = create_app(Reader(store.path), Live(), news, lambda: b"", lambda: True)
    patient = 60  # seconds it would wait for a page
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=patient)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.stream("GET", f"http://127.0.0.1:{port}/api/feed", timeout=10) as response:
            pieces = response.iter_bytes()
            assert next(pieces).startswith(b"retry: 2000\n")
            news.close()
            server.should_exit = True
            assert list(pieces) == []
            thread.join(10)
            assert not thread.is_alive()
    finally:
        server.force_exit = True
        thread.join(5)
        store.close()
