"""A nursery of jobs: torch is imported once, and every job is a process forked from there, which has started nothing yet.

A job ends as any interpreter ends, so its exit status, its output and the time its end takes are those of a script.
"""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
UNWATCHED = "-"


@dataclass(frozen=True)
class Ended:
    """How a job ended: its exit status, what it told of its training, what it printed, and how long its end took."""

    status: int
    state: dict[str, Any]
    facts: dict[str, Any]
    stdout: str
    stderr: str
    seconds_to_end: float


class Nursery:
    """Runs jobs by name, one after the other; ends with the context."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._alone: dict[str, Ended] = {}

    def __enter__(self) -> Self:
        """Import torch once."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.nursery", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go home."""
        assert self._process is not None
        self._process.communicate(timeout=60)

    def alone(self, job: str) -> Ended:
        """How the job ends unwatched, which it does but once."""
        if job not in self._alone:
            self._alone[job] = self.run(job)
        return self._alone[job]

    def run(self, job: str, address: str = UNWATCHED, meanwhile: Callable[[], object] | None = None) -> Ended:
        """Run the job to its end; ``meanwhile`` happens where the job waits for it."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder = self._folder / "job"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if meanwhile is None:
            (folder / "go").touch()
        print(job, address, file=self._process.stdin, flush=True)
        if meanwhile is not None:
            deadline = time.monotonic() + 30
            while not (folder / "reached").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            meanwhile()
            (folder / "go").touch()
        line = self._process.stdout.readline()
        assert line, f"{job} took the nursery with it: {(folder / 'stderr').read_text()}"
        status, ended = json.loads(line)
        stdout, stderr = (folder / "stdout").read_text(), (folder / "stderr").read_text()
        assert (folder / "told.json").exists(), f"{job} told nothing: {stderr}"
        told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
        return Ended(status, told["state"], told["facts"], stdout, stderr, ended - told["at"])


def main() -> None:
    """Fork a process for each job, and tell how it ended and when. In the child this returns, and so does the script."""
    from tests.integration import troubled_ends, troubled_jobs
    from tests.integration.small_job import Job

    jobs = {job.__name__: job for job in (*troubled_jobs.JOBS, *troubled_ends.JOBS)}
    folder = Path(sys.argv[1]) / "job"
    Job("warm", UNWATCHED, folder).train(1)  # what torch imports at the first step
    gc.freeze()  # a job's end need not look at torch's own objects again
    while line := sys.stdin.readline():
        name, address = line.split()
        child = os.fork()
        if child == 0:
            _leave_home(folder)
            jobs[name](Job(name, address, folder))
            return
        deadline = time.monotonic() + 60
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(ended[1]), time.monotonic()]) + "\n")
        sys.stdout.flush()


def _leave_home(folder: Path) -> None:
    """Output to files, Ctrl-C as in a terminal, a process group of its own."""
    os.setpgid(0, 0)
    for descriptor, name in ((0, os.devnull), (1, folder / "stdout"), (2, folder / "stderr")):
        opened = os.open(name, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    main()
