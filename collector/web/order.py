"""Order: the body of a request that asks for something to be done. JSON, small, and here in time."""

import asyncio
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

MAX_BYTES = 4096
BODY_SECONDS = 10.0

_T = TypeVar("_T")


async def order_of(request: Request, kind: type[_T]) -> _T | Response:
    """What the body says, or the answer to one that does not say it.

    JSON alone is taken: a form of another site can send anything else without asking (Fetch standard, "CORS-safelisted").
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return _error(415, "Got another content type than application/json; send JSON.")
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BYTES:
                    return _error(413, f"Got a body of more than {MAX_BYTES} bytes.")
    except TimeoutError:
        return _error(408, f"Got a body that was not whole after {BODY_SECONDS:.0f} seconds.")
    except ClientDisconnect:
        return _error(400, "Got a part of a body.")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _error(400, f"Got a body that does not fit: {error}.")


def _error(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status, {"Connection": "close"})
