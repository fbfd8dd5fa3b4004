"""The page's server on a real socket, and clients that dawdle, flood, smuggle and pretend."""

import asyncio
import json
import random
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.access import check_certificate
from collector.config import load
from collector.errors import AccessError, ConfigError
from collector.tokens import Tokens
from collector.web import server
from tests.served_page import Page, rest_of

TLS = Path(__file__).parents[2] / "tls"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    made = Page(tmp_path)
    yield made
    made.close()


BEGUN = b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
DRIPPING_BODY = (
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"
)
ANSWERED_BUT_SENDING = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx"


@pytest.mark.parametrize("says", [b"", b"G", BEGUN, DRIPPING_BODY, ANSWERED_BUT_SENDING])
def test_a_client_that_drips_its_request_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bytes) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.4)
    monkeypatch.setattr("collector.web.order.BODY_SECONDS", 0.4)
    tokens = Tokens(tmp_path / "keys")
    tokens.make()
    page = Page(tmp_path, tokens)
    with page.connect() as client:
        client.settimeout(0.05)
        client.sendall(says)
        deadline = time.monotonic() + 15
        cut = False
        while not cut and time.monotonic() < deadline:
            try:
                client.sendall(b"x" if says else b"")
                cut = client.recv(4096) == b""
            except TimeoutError:
                pass
            except (ConnectionResetError, BrokenPipeError):
                cut = True
    assert cut
    assert page.well()
    page.close()


ENDING = [b"Connection: close\r\n", b"", b"Content-Length: x\r\n"]
"""The server closes after its answer; it closes once nobody asks for more; it closes because what follows is broken."""


@pytest.mark.parametrize("header", ENDING)
@pytest.mark.parametrize("requests", [1, 200])
def test_a_client_that_never_reads_its_answer_is_cut(
    page: Page, monkeypatch: pytest.MonkeyPatch, header: bytes, requests: int
) -> None:
    monkeypatch.setattr(server, "READ_SECONDS", 0.3)
    lost = threading.Event()
    made = server.BoundedConnection.connection_made
    gone = server.BoundedConnection.connection_lost

    def with_small_buffer(connection: server.BoundedConnection, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(connection, transport)

    def noted(connection: server.BoundedConnection, exc: Exception | None) -> None:
        gone(connection, exc)
        lost.set()

    monkeypatch.setattr(server.BoundedConnection, "connection_made", with_small_buffer)
    monkeypatch.setattr(server.BoundedConnection, "connection_lost", noted)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", page.port))
        asks = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n"
        client.sendall((asks + b"\r\n") * (requests - 1) + asks + header + b"\r\n")
        assert lost.wait(15)
    assert page.well()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Big: " + b"a" * 70_000 + b"\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n X: folded\r\nConnection: close\r\n\r\n", b"400"),
        (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", b"400"),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", b"400"),
        (b"GET /static/../app.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /static/%2e%2e%2fapp.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /static//etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"DELETE /api/runs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"405"),
        (b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
    ],
)
def test_what_is_too_large_ambiguous_or_elsewhere_is_refused(page: Page, request_: bytes, status: bytes) -> None:
    answer = page.ask(request_)
    assert answer.split(b" ", 2)[1] == status, answer[:200]
    assert page.well()


def test_a_hundred_broken_requests_leave_the_server_well(page: Page) -> None:
    rng = random.Random(0)
    whole = b"POST /api/runs/x/tighten HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    for _ in range(100):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(broken))
            broken[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        with page.connect() as client:
            client.sendall(bytes(broken))
            client.shutdown(socket.SHUT_WR)
            assert not rest_of(client).startswith(b"HTTP/1.1 5")
    assert page.well()


def test_a_request_hidden_in_the_body_of_another_is_not_carried_out(page: Page) -> None:
    hidden = b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\n\r\n"
    both = (
        b"POST /api/runs/x/tighten HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" % len(hidden)
    )
    assert page.ask(both + hidden).count(b"HTTP/1.1 ") <= 1


def test_more_connections_than_are_served_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 5)
    page = Page(tmp_path)
    clients = [page.connect() for _ in range(5)]
    time.sleep(0.2)
    assert page.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 503"
    )
    for client in clients:
        client.close()
    time.sleep(0.2)
    assert page.well()
    page.close()


def test_https_is_spoken_with_a_certificate_and_nothing_older_than_tls_1_2(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "keys")
    tokens.make()
    page = Page(tmp_path, tokens, tls=(str(TLS / "cert.pem"), str(TLS / "key.pem")))
    trusting = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    request = urllib.request.Request(
        f"https://127.0.0.1:{page.port}/login",
        json.dumps({"token": tokens.text("read")}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, context=trusting, timeout=10) as answer:  # noqa: S310
        cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"__Host-phasewatch{page.port}=read.")
    assert "; Secure" in cookie
    old = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with page.connect() as client, pytest.raises(ssl.SSLError):
        old.wrap_socket(client, server_hostname="127.0.0.1")
    page.close()


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("absent.pem", "key.pem", "cannot be used: .*No such file"),
        ("key.pem", "cert.pem", "cannot be used: "),
        ("cert.pem", "cert.pem", "Need a certificate chain and its unencrypted private key"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused_at_the_door(cert: str, key: str, words: str) -> None:
    settings, _ = load(flags={"web.tls_cert": str(TLS / cert), "web.tls_key": str(TLS / key)}, environment={})
    with pytest.raises(AccessError, match=words):
        check_certificate(settings)


def test_a_page_that_others_can_reach_needs_https_or_a_proxy() -> None:
    with pytest.raises(ConfigError, match=r"web.host = '192.0.2.1' from --web-host, .* no HTTPS: .*web.behind_proxy"):
        load(flags={"web.host": "192.0.2.1"}, environment={})
    with pytest.raises(ConfigError, match=r"Got web.tls_cert from --web-tls_cert without web.tls_key"):
        load(flags={"web.tls_cert": "c.pem"}, environment={})
    for enough in ({"web.behind_proxy": True}, {"web.tls_cert": "c", "web.tls_key": "k"}):
        load(flags={"web.host": "192.0.2.1", **enough}, environment={})
