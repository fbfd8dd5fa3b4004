"""A real collector in a process of its own, in which torch cannot be imported."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from tests import warm
from tests.patience import eventually

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from collector.cli import main; main()"


class CollectorProcess:
    """Starts with the context, is ended with it, by its own process id; may be killed and started again in between."""

    def __init__(self, store: Path, *, inlet_port: int | str = "*", web_port: int = 0) -> None:
        self.store = store
        self._inlet = f"tcp://127.0.0.1:{inlet_port}"
        self._web_port = web_port
        self.process: warm.Process | None = None
        self.page = ""
        self.inlet = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def start(self) -> None:
        """Start and wait until it is ready; a second start listens where the first did."""
        command = ["-c", WITHOUT_TORCH, "serve", "--store", str(self.store)]
        command += ["--inlet-address", self.inlet or self._inlet, "--web-port", str(self._web_port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.store.parent / "collector.log").open("a") as log:
            self.process = warm.Process(
                warm.COLLECTOR, command, stdout=subprocess.PIPE, stderr=log, cwd=self.store.parent, env=environment
            )
        assert self.process.stdout is not None
        lines = {}
        for _ in range(3):
            line = self.process.stdout.readline()
            assert line, (self.store.parent / "collector.log").read_text()
            name, value = line.split(maxsplit=1)
            lines[name] = value.strip()
        self.page, self.inlet = lines["page"], lines["inlet"]
        self._web_port = int(self.page.rsplit(":", 1)[1])
        eventually(lambda: self.get("/readyz") is not None, seconds=20, what="the collector to be ready")

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self._close_pipe()

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(10)
        self._close_pipe()
        return status

    def _close_pipe(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.close()

    def get(self, path: str) -> Any:
        """The answer to a GET: JSON decoded, anything else as text; None while nobody answers."""
        try:
            with urllib.request.urlopen(self.page + path, timeout=10) as answer:  # noqa: S310
                body = answer.read().decode()
                return json.loads(body) if "json" in answer.headers["content-type"] else body
        except (urllib.error.URLError, ConnectionError):
            return None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another verb of ``probe-collector`` on the same store."""
        return subprocess.run(
            [*warm.command(warm.COLLECTOR), "-c", WITHOUT_TORCH, *arguments, "--store", str(self.store)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.store.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"},
            check=False,
        )
