"""A real collector in a process of its own folder: started, killed, measured from outside, and asked what it has kept."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from collector.store.queries import Reader
from probe_wire import Report
from probe_wire.agent_key import AgentKey

COMMAND = (sys.executable, "-c", "from collector.cli import main; main()")


class Collector:
    """Begins to run with the context; may be killed and started again, at the same addresses.

    Args:
        folder: where its store, keys and log are.
        keys: how many to make; with any, only who has one is let in (CURVE), else whoever is on this machine.
        before: a program that runs it, as strace does.
    """

    def __init__(self, folder: Path, *, keys: int = 0, before: tuple[str, ...] = ()) -> None:
        self._before = before
        self.folder = folder
        self.store = folder / "store.db"
        self.inlet = "tcp://127.0.0.1:*"
        self.page = "http://127.0.0.1:0"
        self.keys: list[AgentKey] = []
        self.process: subprocess.Popen[str] | None = None
        self._environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        for i in range(keys):
            made = [*COMMAND, "keys", "create", f"crowd-{i}", "--out", f"{i}.key"]
            subprocess.run(made, cwd=folder, env=self._environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
            self.keys.append(AgentKey.load(folder / f"{i}.key"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.end(signal.SIGTERM)

    def start(self) -> None:
        """Start, and wait until it is ready."""
        port = self.page.rsplit(":", 1)[1]
        command = [
            *self._before,
            *COMMAND,
            "serve",
            "--store",
            self.store.name,
            "--inlet-address",
            self.inlet,
            "--web-port",
            port,
        ]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own
                command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment
            )
        assert self.process.stdout is not None  # noqa: S101 - asked for above
        lines = [self.process.stdout.readline() for _ in range(3)]
        said = dict(line.split(maxsplit=1) for line in lines if line.strip())
        if not {"page", "inlet"} <= set(said):
            raise RuntimeError(f"the collector does not start; see {self.folder / 'log'}")
        self.page, self.inlet = said["page"].strip(), said["inlet"].strip()
        while not self.ready:
            time.sleep(0.02)

    def end(self, how: signal.Signals) -> None:
        """Send it a signal that ends it, and wait until it has."""
        pid = self._process.pid
        if self._before:
            (pid,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        os.kill(pid, how)
        self._process.wait(60)
        if self._process.stdout is not None:
            self._process.stdout.close()

    @contextmanager
    def signalled(self, before: signal.Signals, after: signal.Signals) -> Iterator[None]:
        """One signal now, the other at the end."""
        self._process.send_signal(before)
        try:
            yield
        finally:
            self._process.send_signal(after)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Meanwhile none of its files may grow."""
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (self.store.stat().st_size // 2, hard))
        try:
            yield
        finally:
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (hard, hard))

    @property
    def ready(self) -> bool:
        """It says so itself."""
        try:
            return self.get("/readyz") == "ready\n"
        except (urllib.error.URLError, ConnectionError):
            return False

    def get(self, path: str, seconds: float = 30.0) -> str:
        """The answer to a GET."""
        with urllib.request.urlopen(self.page + path, timeout=seconds) as answer:  # noqa: S310 - our own page
            return str(answer.read().decode())

    @property
    def processor_seconds(self) -> float:
        """User and system time so far."""
        return processor_seconds(self._process.pid)

    @property
    def memory(self) -> float:
        """Resident, in MB."""
        found = re.search(r"VmRSS:\s+(\d+)", self._proc("status"))
        return int(found[1]) / 1024 if found else 0.0

    @property
    def descriptors(self) -> int:
        """Files and sockets it has open."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def kept(self, run: str) -> Counter[tuple[int, int]]:
        """How often each ``(rank, step)`` of a run is in the store."""
        frames = Reader(self.store).frames(run)
        return Counter((frame.rank, frame.message.step) for frame in frames if isinstance(frame.message, Report))

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text()

    @property
    def _process(self) -> "subprocess.Popen[str]":
        assert self.process is not None  # noqa: S101 - started with the context
        return self.process


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
