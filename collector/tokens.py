"""Tokens: the two secrets that open the page and the API, one to read and one to control, in the folder of keys.

A browser shows a token once, at the login, and gets a *ticket* for its cookie instead: scope and expiry, signed with the
token (HMAC-SHA256, RFC 2104), so that a ticket ends with the token it was given for and a cookie never holds one.
"""

import hashlib
import hmac
import logging
import secrets
import threading
import time
from pathlib import Path
from typing import Literal, get_args

from collector.errors import AccessError
from collector.log import event
from collector.private_folder import PrivateFolder

Scope = Literal["read", "control"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
TICKET_SECONDS = 14 * 86_400
REFRESH_SECONDS = 1.0
UNREADABLE_SECONDS = 60.0


class Tokens:
    """See the module. Who may control may read. Any thread may ask.

    Raises:
        AccessError: a token cannot be read, or others may read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = PrivateFolder(folder)
        self._lock = threading.Lock()
        self._signatures: dict[Scope, tuple[int, ...] | None] = {}
        self._tokens: dict[Scope, str] = {}
        self._refresh_at = 0.0
        self._read()

    @property
    def in_use(self) -> bool:
        """There are tokens: who has none sees nothing."""
        return bool(self._tokens)

    def path(self, scope: Scope) -> Path:
        """The file a token is in."""
        return self._folder.path / _file(scope)

    def text(self, scope: Scope) -> str:
        """The token itself; `make` it first."""
        return self._tokens[scope]

    def make(self, *, anew: bool = False) -> None:
        """Make the tokens that are not there, or all of them anew, which ends every login."""
        with self._folder.locked():
            for scope in SCOPES:
                if anew or self._folder.signature(_file(scope)) is None:
                    self._folder.replace(_file(scope), secrets.token_urlsafe(32).encode() + b"\n")
        self._read()

    def scope_of(self, token: str) -> Scope | None:
        """What a token opens; None for one that is not ours. Takes as long for a near miss as for any other."""
        found: Scope | None = None
        for scope, ours in self._fresh().items():
            if hmac.compare_digest(token.encode(), ours.encode()):
                found = scope
        return found

    def ticket(self, scope: Scope, now: float | None = None) -> str:
        """For a cookie: valid for `TICKET_SECONDS`."""
        expires = int((time.time() if now is None else now) + TICKET_SECONDS)
        return f"{scope}.{expires}.{_signature(self._fresh()[scope], scope, str(expires))}"

    def scope_of_ticket(self, ticket: str, now: float | None = None) -> Scope | None:
        """What a ticket opens; None for one that is forged, has expired, or whose token was replaced."""
        scope, _, rest = ticket.partition(".")
        expires, _, signature = rest.partition(".")
        for known, ours in self._fresh().items():
            signed = hmac.compare_digest(signature.encode(), _signature(ours, scope, expires).encode())
            if scope == known and signed:
                return known if int(expires) > (time.time() if now is None else now) else None
        return None

    def _fresh(self) -> dict[Scope, str]:
        """The tokens as they are on disk now, or were a second ago."""
        with self._lock:
            if time.monotonic() >= self._refresh_at:
                try:
                    self._read()
                except AccessError as error:  # the last ones stay in force, and the next request looks again
                    event("tokens.unreadable", logging.ERROR, detail=str(error))
                    self._refresh_at = time.monotonic() + UNREADABLE_SECONDS
            return self._tokens

    def _read(self) -> None:
        signatures = {scope: self._folder.signature(_file(scope)) for scope in SCOPES}
        if signatures != self._signatures:
            self._tokens = {scope: self._load(scope) for scope, signature in signatures.items() if signature}
            self._signatures = signatures
        self._refresh_at = time.monotonic() + REFRESH_SECONDS

    def _load(self, scope: Scope) -> str:
        token = self._folder.read(_file(scope)).decode(errors="replace").strip()
        if len(token) < 32:
            raise AccessError(
                f"Got the token {self.path(scope)} of {len(token)} characters; need 32 or more. Remove it: another is made."
            )
        return token


def _file(scope: Scope) -> str:
    return f"{scope}.token"


def _signature(token: str, scope: str, expires: str) -> str:
    return hmac.new(token.encode(), f"{scope}.{expires}".encode(), hashlib.sha256).hexdigest()
