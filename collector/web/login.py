"""Login: wraps the application where tokens are asked for; nothing but the login and the health checks is open without one.

A script shows a token as ``Authorization: Bearer`` (RFC 6750). A browser shows it once to ``POST /login`` and gets a
cookie that scripts cannot read and other sites cannot make it send (HttpOnly, SameSite=Strict).
"""

import time
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from collector.health import Health
from collector.tokens import TICKET_SECONDS, Tokens
from collector.web.guard import OPEN_PATHS, READS
from collector.web.order import order_of

COOKIE = "phasewatch"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""By this name browsers take it from HTTPS alone and give it to no other host (RFC 6265bis, section 4.1.3.2)."""
STILL = "phasewatch.still"
"""Under this name a request's scope tells whether its token is still valid: an answer without end has to ask."""
FAILURES = 5
"""So many wrong tokens of one address within `FAILURE_SECONDS`; then it must wait."""
FAILURE_SECONDS = 60.0
ADDRESSES = 4096


class Shown(msgspec.Struct, forbid_unknown_fields=True):
    """What a person shows at the login."""

    token: str


class Login:
    """See the module. Who controls may write; who reads may not.

    Args:
        app: the application behind.
        tokens: what is asked for.
        health: counts who was refused.
        behind_proxy: the client's address and scheme are what the proxy before us says they are.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, health: Health, *, behind_proxy: bool = False) -> None:
        self._app = app
        self._tokens = tokens
        self._health = health
        self._behind_proxy = behind_proxy
        self._failures = Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = await self._log_in(request) if scope["path"] == "/login" else self._refusal(request)
        scope[STILL] = lambda: self._scope_of(request)[0] is not None
        await (answer or self._app)(scope, receive, send)

    @staticmethod
    def _is_open(scope: Scope) -> bool:
        path = scope["path"]
        return path in OPEN_PATHS or path.startswith("/static/") or (path == "/login" and scope["method"] in READS)

    def _refusal(self, request: Request) -> Response | None:
        """Why a request may not go on; None where it may."""
        shown, has_cookie = self._scope_of(request)
        if shown is None:
            if request.method in READS and _is_page(request.scope["path"]):
                query = f"?{request.url.query}" if request.url.query else ""
                return RedirectResponse(f"/login#{quote(request.scope['path'])}{quote(query, safe='?=&%+,:')}", 303)
            sentence = "Got no token that is valid here. Send Authorization: Bearer TOKEN, or log in at /login."
            return self._refused("token", 401, sentence, {"WWW-Authenticate": 'Bearer realm="phasewatch"'})
        if request.method not in READS and shown != "control":
            return self._refused("scope", 403, "Got the token to read; need the one to control.")
        if request.method not in READS and has_cookie and "origin" not in request.headers:
            return self._refused(
                "origin", 403, "Got a write from a browser that does not say which page it comes from."
            )
        return None

    def _scope_of(self, request: Request) -> tuple[str | None, bool]:
        """What the request's token or cookie opens, and whether it was the cookie."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind:
            return (self._tokens.scope_of(token.strip()) if kind.lower() == "bearer" else None), False
        return self._tokens.scope_of_ticket(_cookie(request.headers, self._cookie_name(request))), True

    async def _log_in(self, request: Request) -> Response:
        address = self._address(request)
        wait = self._failures.wait(address)
        if wait > 0:
            sentence = f"Got {FAILURES} wrong tokens from {address}. Try again in {wait:.0f} seconds."
            return self._refused("rate", 429, sentence, {"Retry-After": f"{wait:.0f}"})
        shown = await order_of(request, Shown)
        if isinstance(shown, Response):
            return shown
        scope = self._tokens.scope_of(shown.token.strip())
        if scope is None:
            self._failures.add(address)
            return self._refused(
                "token", 401, "This token opens nothing here. `probe-collector tokens` prints those that do."
            )
        secure = self._is_secure(request)
        answer = JSONResponse({"scope": scope})
        answer.set_cookie(
            self._cookie_name(request),
            self._tokens.ticket(scope),
            max_age=TICKET_SECONDS,
            path="/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )
        return answer

    def _refused(self, reason: str, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        self._health.refused_requests.labels(reason).inc()
        return JSONResponse({"error": sentence}, status, headers)

    def _is_secure(self, request: Request) -> bool:
        forwarded = request.headers.get("x-forwarded-proto", "") if self._behind_proxy else ""
        return (forwarded or request.scope["scheme"]) == "https"

    def _cookie_name(self, request: Request) -> str:
        """One for each port, as browsers send a cookie to all ports of a host (RFC 6265, section 8.5)."""
        port = request.headers.get("host", "").rpartition(":")[2]
        return (SECURE_COOKIE if self._is_secure(request) else COOKIE) + (port if port.isdecimal() else "")

    def _address(self, request: Request) -> str:
        """Who asks: behind a proxy the address it saw, which it appended last."""
        forwarded = request.headers.get("x-forwarded-for", "") if self._behind_proxy else ""
        return forwarded.rpartition(",")[2].strip()[:64] or (request.client.host if request.client else "")


class Failures:
    """Wrong tokens by address, of the last `FAILURE_SECONDS`; of `ADDRESSES` at the most."""

    def __init__(self) -> None:
        self._since: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def add(self, address: str) -> None:
        """One more."""
        now = time.monotonic()
        began, count = self._since.pop(address, (now, 0))
        self._since[address] = (began, count + 1) if now - began < FAILURE_SECONDS else (now, 1)
        if len(self._since) > ADDRESSES:
            self._since.popitem(last=False)

    def wait(self, address: str) -> float:
        """Seconds until the address may try again."""
        began, count = self._since.get(address, (0.0, 0))
        return max(0.0, began + FAILURE_SECONDS - time.monotonic()) if count >= FAILURES else 0.0


def _is_page(path: str) -> bool:
    return path in {"/", "/compare"} or path.startswith("/runs/")


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value
