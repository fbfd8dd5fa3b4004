"""WorkerProcess: the foreman's hand on one worker. Every wait is bounded, and ends when the foreman closes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, final

from probe_agent.findings import Finding
from probe_agent.process import Process
from probe_wire import Outcome

START_SECONDS = 120.0
"""The most a worker may take to start; importing torch takes a few."""

_PROGRAM = """
import os, sys, traceback
try:
    from probe_agent.worker import run
except BaseException:
    os.write(int(sys.argv[4]), traceback.format_exc()[-1500:].encode())
    raise
run()
"""
"""What it dies of before it has begun are last words too: a package that the training process has found is not found there."""

_dying: list["subprocess.Popen[bytes]"] = []

CLOSED = "the monitor was closed before it was measured"


class WorkerLost(Exception):
    """The worker is gone, or as good as gone; says how."""

    def __init__(self, why: str, outcome: Outcome = Outcome.FAILED) -> None:
        super().__init__(why)
        self.outcome = outcome


@final
class WorkerProcess:
    """One process and the connection to it.

    Raises:
        WorkerLost: from every method but `end`, when the process is gone, does not answer, or is no longer wanted.
    """

    def __init__(self, process: Process, descriptors: tuple[int, int, int], closing: threading.Event) -> None:
        self._patience = process.patience
        self._closing = closing
        self._last_words = descriptors[2]
        os.ftruncate(self._last_words, 0)
        os.lseek(self._last_words, 0, os.SEEK_SET)
        self._connection, theirs = Pipe()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(place) or str(Path.cwd()) for place in sys.path),
            "PHASEWATCH_DISABLE": "1",
        }
        environment |= {"OMP_NUM_THREADS": str(process.threads)}
        if process.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-c", _PROGRAM, *map(str, (theirs.fileno(), *descriptors, os.getpid()))],
                pass_fds=(theirs.fileno(), *descriptors),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except (OSError, ValueError) as error:
            self._connection.close()
            raise WorkerLost(f"{type(error).__name__}: {error}") from error
        finally:
            theirs.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._popen.poll() is None

    def set_up(self, process: Process, body: bytes) -> None:
        """Wait until it has loaded what stays the same."""
        self._send((process, body))
        self._receive(START_SECONDS)

    def begin(self, step: int, names: Sequence[str], body: bytes) -> str:
        """Have it measure; `READY`, or why it cannot load the snapshot."""
        self._send((step, names, body))
        said: str = self._receive(START_SECONDS)
        return said

    def next(self) -> Finding:
        """The next probe's finding."""
        finding: Finding = self._receive(self._patience + 5)  # by then it has ended itself, with a traceback
        return finding

    def kill(self) -> None:
        """End the process; from any thread."""
        self._popen.kill()

    def end(self) -> None:
        """Kill it, and take its place in the process table back, or leave that to the next one that ends."""
        self._connection.close()
        self.kill()
        _dying.append(self._popen)
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)  # at its low priority it may have to wait before it can even die
        _dying[:] = [process for process in _dying if process.poll() is None]

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except (OSError, ValueError) as error:
            raise self._lost() from error

    def _receive(self, seconds: float) -> Any:
        until = time.monotonic() + seconds
        try:
            while not self._connection.poll(0.05):  # a foreman that closes has a few tenths of a second
                if self._closing.is_set():
                    raise WorkerLost(CLOSED, Outcome.OVER_BUDGET)
                if time.monotonic() > until:
                    raise WorkerLost(f"it did not answer for {seconds:g} s")
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error

    def _lost(self) -> WorkerLost:
        """What the process died of, with its last words."""
        try:
            code = self._popen.wait(5)
        except subprocess.TimeoutExpired:
            return WorkerLost("it closed its connection and runs on")
        words = os.pread(self._last_words, 1500, 0).decode(errors="replace").strip()
        if code == -signal.SIGKILL:
            return WorkerLost("it was killed (SIGKILL), as the system does when memory runs out", Outcome.OUT_OF_MEMORY)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return WorkerLost(f"{how}{': ' if words else ''}{words}")
