"""Guard: wraps the whole application; refuses foreign Host names and foreign writes, and sends the security headers.

A page on another site can make a browser send requests here under a name that its owner points at
127.0.0.1 (DNS rebinding), and would then read the answers as its own. Such a request carries that
*name* in its Host header, so names are only answered when they are known. A numeric address cannot
be rebound: whoever connects by number reached the machine they meant.

It can also make a browser write here without reading the answer (cross-site request forgery). A browser says which page a
write comes from, and that must be a page of ours.
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from collector.health import Health

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
READS = frozenset({"GET", "HEAD"})
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered under any name: they tell nothing, and orchestrators ask by names of their own."""


class Guard:
    """The application behind the host allow-list, with the security headers on every answer."""

    def __init__(self, app: ASGIApp, health: Health, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._health = health
        self._allowed = {"localhost"} | {host.lower().strip("[]") for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        host = host_name(headers.get("host", ""))
        if not (scope["path"] in OPEN_PATHS or host in self._allowed or _is_address(host)):
            self._health.refused_requests.labels("host").inc()
            sentence = (
                f"Got a request for the host {host!r}; this collector answers to {', '.join(sorted(self._allowed))} "
                "and to numeric addresses. If that name is yours, add it to allowed_hosts in the [web] section of phasewatch.toml."
            )
            await JSONResponse({"error": sentence}, status_code=400)(scope, receive, guarded)
        elif scope["method"] not in READS and not is_own_page(headers):
            self._health.refused_requests.labels("origin").inc()
            sentence = f"Got a write from a page of {headers.get('origin')!r}; only pages of this collector may write."
            await JSONResponse({"error": sentence}, status_code=403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def is_own_page(headers: Headers) -> bool:
    """A write comes from a page of ours, or from no page: a script sends neither header, a browser always one."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if origin is None:
        return site in {"none", "same-origin"}
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").strip().lower() != ""
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The host of a Host header without its port, in lower case, without the brackets of IPv6."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
