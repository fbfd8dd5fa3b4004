"""The application behind the page: every route on one screen."""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from collector.errors import StoreError
from collector.health import Health
from collector.live import Live
from collector.phases import MACHINES, Machine
from collector.store.orders import OrderRow
from collector.store.queries import Reader
from collector.tokens import Tokens
from collector.web.api import Api
from collector.web.assets import FILES, Asset, load
from collector.web.control import Control, TightenOrder
from collector.web.feed import Feed
from collector.web.guard import Guard
from collector.web.login import STILL, Login
from collector.web.order import order_of
from collector.web.record import Record

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def create_app(
    reader: Reader,
    live: Live,
    feed: Feed,
    metrics: Callable[[], bytes],
    ready: Callable[[], bool],
    *,
    alive: Callable[[], bool] = lambda: True,
    allowed_hosts: Iterable[str] = (),
    address: str = "tcp://127.0.0.1:5757",
    guarded: bool = False,
    machines: Sequence[Machine] = MACHINES,
    record: Record | None = None,
    health: Health | None = None,
    carry_out: Callable[[OrderRow], bool] = lambda _: True,
    tokens: Tokens | None = None,
    behind_proxy: bool = False,
) -> Starlette:
    """The page, its API, the live feed, ``/metrics`` and the two health checks.

    ``metrics`` gives the text of ``/metrics`` and is called in a thread, as are all store reads. ``ready`` says whether what
    comes in can be kept (``/readyz``), ``alive`` whether a restart is the only help left (``/healthz``).
    ``allowed_hosts`` are further names to answer to, beside localhost and numeric addresses.
    ``address`` is where agents send to, ``guarded`` that they need a key: shown to a person who has no run yet. ``machines`` are what runs
    are judged by, ``record`` how often they were right. ``health`` counts who is refused. ``carry_out`` keeps an
    order and asks the run's agents. ``tokens`` are asked for, where there are any; ``behind_proxy``
    believes what a proxy says of who asks.
    """
    health = health or Health()
    api = Api(reader, live, address, machines, record, guarded=guarded)
    control = Control(reader, carry_out, health)
    answers = _Answers(api, control, feed, metrics, ready, alive)
    guards = [Middleware(Guard, health=health, allowed_hosts=tuple(allowed_hosts))]
    if tokens is not None:
        guards.append(Middleware(Login, tokens=tokens, health=health, behind_proxy=behind_proxy))
    app = Starlette(
        routes=[
            Route("/", answers.page),
            Route("/runs/{id}", answers.page),
            Route("/compare", answers.page),
            Route("/login", answers.login),
            Route("/static/{name:path}", answers.static),
            Route("/api/runs", answers.runs),
            Route("/api/runs/{id}", answers.run),
            Route("/api/runs/{id}/series", answers.series),
            Route("/api/runs/{id}/points", answers.points),
            Route("/api/runs/{id}/times", answers.times),
            Route("/api/runs/{id}/transitions", answers.transitions),
            Route("/api/runs/{id}/tighten", answers.tighten, methods=["POST"]),
            Route("/api/record", answers.record),
            Route("/api/feed", answers.feed),
            Route("/metrics", answers.metrics),
            Route("/healthz", answers.healthz),
            Route("/readyz", answers.readyz),
        ],
        middleware=guards,
        exception_handlers={HTTPException: _refused, sqlite3.Error: _store_failed, StoreError: _store_failed},
    )
    app.router.redirect_slashes = False  # each address has one spelling
    return app


class _Answers:
    """One method a route. The plain functions among them run in threads, as they read the store."""

    def __init__(
        self,
        api: Api,
        control: Control,
        feed: Feed,
        metrics: Callable[[], bytes],
        ready: Callable[[], bool],
        alive: Callable[[], bool],
    ) -> None:
        self._api = api
        self._control = control
        self._feed = feed
        self._metrics = metrics
        self._ready = ready
        self._alive = alive
        self._page = load("index.html")
        self._login = load("login.html")
        self._files = {name: load(name) for name in FILES}

    async def page(self, request: Request) -> Response:
        return _asset(request, self._page)

    async def login(self, request: Request) -> Response:
        return _asset(request, self._login)

    async def static(self, request: Request) -> Response:
        asset = self._files.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404, f"Got {request.url.path!r}, which is not a file of the page. Reload the page.")
        return _asset(request, asset)

    def runs(self, _: Request) -> Response:
        return _json(self._api.runs())

    def run(self, request: Request) -> Response:
        return _json(self._api.run(request.path_params["id"]))

    def series(self, request: Request) -> Response:
        return _json(self._api.series(request.path_params["id"]))

    def points(self, request: Request) -> Response:
        return _json(self._api.points(request.path_params["id"], request.query_params))

    def times(self, request: Request) -> Response:
        return _json(self._api.times(request.path_params["id"], request.query_params))

    def transitions(self, request: Request) -> Response:
        return _json(self._api.transitions(request.path_params["id"]))

    async def tighten(self, request: Request) -> Response:
        order = await order_of(request, TightenOrder)
        if isinstance(order, Response):
            return order
        address = request.client.host if request.client else ""
        taken = await run_in_threadpool(self._control.tighten, request.path_params["id"], order, address)
        return _json(msgspec.json.encode(taken))

    def record(self, _: Request) -> Response:
        return _json(self._api.record())

    async def feed(self, request: Request) -> Response:
        if self._feed.full:
            raise HTTPException(
                503, f"Got one page more than the {self._feed.pages} that may be open. Close one and try again."
            )
        return StreamingResponse(
            _while_allowed(self._feed.stream(), request.scope.get(STILL, _always)),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    def metrics(self, _: Request) -> Response:
        return Response(self._metrics(), media_type=PROMETHEUS_TEXT)

    async def healthz(self, _: Request) -> Response:
        return PlainTextResponse("ok\n") if self._alive() else PlainTextResponse("stuck\n", status_code=503)

    async def readyz(self, _: Request) -> Response:
        return PlainTextResponse("ready\n") if self._ready() else PlainTextResponse("not ready\n", status_code=503)


def _always() -> bool:
    return True


async def _while_allowed(stream: AsyncGenerator[bytes], still: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The stream until its reader's token is replaced; noticed at its next word, within fifteen seconds."""
    async with aclosing(stream):
        async for part in stream:
            if not still():
                return
            yield part


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _asset(request: Request, asset: Asset) -> Response:
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.content_type, headers=headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette's handlers are typed for any exception
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _store_failed(_: Request, error: Exception) -> Response:
    sentence = f"The store could not be read: {error}. Try again; if it persists, look at the collector's log."
    return JSONResponse({"error": sentence}, status_code=503)
