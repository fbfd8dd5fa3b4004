"""A browser or a script without a network."""

import asyncio
from typing import Any

import httpx
from starlette.applications import Starlette


class Client:
    """A browser without a network: each request goes straight into the application."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.request("GET", path, **request)

    def raw(self, method: str, path: str, headers: dict[str, bytes], body: bytes) -> httpx.Response:
        """A request whose path the server has already decoded to anything at all."""
        told: list[Any] = []

        async def send(message: Any) -> None:
            told.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        fields = [(b"host", b"127.0.0.1:8080"), *((name.encode(), value) for name, value in headers.items())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": fields,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }
        asyncio.run(self._app(scope, receive, send))
        content = b"".join(message.get("body", b"") for message in told)
        return httpx.Response(told[0]["status"], content=content)

    def request(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
                return await client.request(method, path, **request)

        return asyncio.run(send())
