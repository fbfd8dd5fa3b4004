"""Real servers for tests: Prometheus, Alertmanager, a page to scrape, a receiver of webhooks. Loopback only.

Each is a context manager that waits until the server answers, within bounds, and ends what it
started and nothing else. A test whose server is not installed is skipped with the reason.
"""

import json
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import eventually

_BINARIES = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),  # the first is Debian's name for it
    "amtool": ("amtool",),
}
READY_SECONDS = 20.0


def binary(name: str) -> str:
    """The path of a program; the test is skipped where it is not installed."""
    for candidate in _BINARIES[name]:
        found = shutil.which(candidate)
        if found:
            return found
    return pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus prometheus-alertmanager)")


def free_port() -> int:
    """A free port below the range outgoing connections take theirs from, which would collide now and then."""
    for port in random.sample(range(20_000, 32_768), 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("Got 200 taken ports between 20000 and 32767; need one free.")


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def get(self, path: str, **params: str) -> Any:
        """The data of an API answer; the server's own words when it is an error."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=30.0)
        body = answer.json()
        assert body["status"] == "success", f"{params}: {body.get('error')}"
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression."""
        data = self.get("query", query=expression)
        return list(data["result"]) if data["resultType"] != "scalar" else [{"metric": {}, "value": data["result"]}]

    def names(self) -> set[str]:
        """Every metric name it knows."""
        return set(self.get("label/__name__/values"))


@contextmanager
def prometheus(config: str, folder: Path) -> Iterator[Prometheus]:
    """Prometheus on a free port with this configuration; rule files are relative to the folder."""
    path = folder / "prometheus.yml"
    path.write_text(config)
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'prometheus-data'}",
        f"--web.listen-address={address}",
        "--rules.alert.resend-delay=1s",  # what fires before it has found the Alertmanager is otherwise told a minute later
    ]
    with _running(command, f"http://{address}/-/ready", folder / "prometheus.log"):
        yield Prometheus(f"http://{address}")


@contextmanager
def alertmanager(config: str, folder: Path) -> Iterator[str]:
    """The address (host:port) of an Alertmanager on a free port with this configuration."""
    path = folder / "alertmanager.yml"
    path.write_text(config)
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary("alertmanager"),
        f"--config.file={path}",
        f"--storage.path={folder / 'alertmanager-data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",  # else it opens 9094 on every address
    ]
    with _running(command, f"http://{address}/-/ready", folder / "alertmanager.log"):
        yield address


@contextmanager
def page(render: Callable[[], bytes], content_type: str, token: str) -> Iterator[str]:
    """The address (host:port) of a server whose ``/metrics`` is what ``render`` returns to who shows the token."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            if self.headers["Authorization"] == f"Bearer {token}":
                self.answer(render(), content_type)
            else:
                self.send_error(401)

    with _serving(Handler) as address:
        yield address


@dataclass
class Webhooks:
    """What a receiver was posted, in order."""

    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """The alerts, of all messages so far, that carry these labels."""
        every = [alert for message in list(self.received) for alert in message["alerts"]]
        return [alert for alert in every if labels.items() <= alert["labels"].items()]


@contextmanager
def webhook() -> Iterator[Webhooks]:
    """A server that keeps every JSON body posted to it."""
    hooks = Webhooks()

    class Handler(_Quiet):
        def do_POST(self) -> None:
            hooks.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(b"{}", "application/json")

    with _serving(Handler) as address:
        hooks.url = f"http://{address}/"
        yield hooks


def run_program(name: str, *arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """A program's answer; it is never asked to succeed here, so that a test can read why it did not."""
    done = subprocess.run(
        [binary(name), *map(str, arguments)], input=stdin, capture_output=True, timeout=60, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class _Quiet(BaseHTTPRequestHandler):
    def answer(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked had no more time
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """A test's output is not a server's log."""


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", free_port()), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(5)


@contextmanager
def _running(command: list[str], ready: str, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            _wait_ready(process, ready, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_ready(process: "subprocess.Popen[bytes]", ready: str, log: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{process.args!r} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        with suppress(httpx.TransportError):
            return httpx.get(ready, timeout=2.0).status_code == 200
        return False

    eventually(answers, seconds=READY_SECONDS, what=f"{ready}; its log is {log}")
