"""Faults without end: whether, after hundreds of them, each report of every agent is in the store once, and nothing has grown.

    python benchmarks/soak.py [--kills 100] [--jobs 20] [--hours 0] [--out FOLDER]

A real collector under the load of light agents and of four real outboxes in this process, all over a rough line, and of a job of its own.
In turn, at random: the collector is killed by SIGKILL and started again; the job is killed, and its spool is left to whoever comes next; the
line is cut (RST), silent, or slow; the collector stands still (SIGSTOP); its disk takes nothing (RLIMIT_FSIZE). So many kills, or so many
hours. At the end each is delivered, and the store is asked for every (rank, step) of every run. Prints, and writes soak.json and soak.md.
"""

import argparse
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from crowd import Crowd
from estimators import machine
from own_collector import Collector
from rich.console import Console

from probe_agent.outbox import ZmqOutbox
from probe_wire import Run
from tests.integration.reporter import draft
from tests.integration.rough_line import RoughLine

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
OUTBOXES, LIGHT = 4, 40
OUTBOX_RATE, LIGHT_RATE, JOB_RATE = 50.0, 200.0, 100.0
PATIENCE = 180.0
WARM_UP = 0.2
"""Of the time, which a slope of memory does not look at: until then caches fill."""


class Outboxes:
    """Real outboxes that report at a steady rate from a thread, as four jobs would."""

    def __init__(self, line: RoughLine) -> None:
        self.made = 0
        self.of = [
            ZmqOutbox(
                line.address, Run("outboxes", "outboxes", "host", os.getpid(), time.time()), rank, lambda: self.made
            )
            for rank in range(OUTBOXES)
        ]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)
        self._thread.start()

    def end(self) -> dict[tuple[str, int], int]:
        """Deliver all; how many reports each has made."""
        self._ended.set()
        self._thread.join()
        until = time.monotonic() + PATIENCE
        while any(outbox.undelivered for outbox in self.of) and time.monotonic() < until:
            time.sleep(0.05)
        for outbox in self.of:
            outbox.close("finished")
        return {("outboxes", rank): self.made for rank in range(OUTBOXES)}

    def _report(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(1 / OUTBOX_RATE):
            due = int((time.monotonic() - began) * OUTBOX_RATE)
            while self.made < due:
                self.made += 1
                for outbox in self.of:
                    outbox.put(draft(self.made))


class Job:
    """A process that reports until it is killed; each life is a run of its own, and says on its output what it has put."""

    def __init__(self, inlet: str) -> None:
        self.put: dict[str, int] = {}
        self._inlet = inlet
        self._lives = 0
        self._start()

    def die(self) -> None:
        """SIGKILL; its spool stays behind for the next life."""
        self._end()
        self._start()

    def end(self) -> None:
        """The last SIGKILL."""
        self._end()

    def _start(self) -> None:
        self._lives += 1
        self._run = f"job-{self._lives}"
        command = [sys.executable, str(ROOT / "tests/integration/reporter.py"), self._inlet, self._run, "0"]
        self._process = subprocess.Popen(  # noqa: S603 - our own
            [*command, str(int(JOB_RATE)), "1000000"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        os.set_blocking(self._process.stdout.fileno(), True)
        self._said = threading.Thread(target=self._listen, args=(self._process.stdout, self._run), daemon=True)
        self._said.start()

    def _listen(self, output: Any, run: str) -> None:
        for line in output:
            if line.endswith(b"\n"):
                self.put[run] = int(line)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._said.join()


class Faults:
    """What is done to them, by name; each leaves everything as it was, or on its way there."""

    def __init__(self, collector: Collector, line: RoughLine, job: Job, noise: random.Random) -> None:
        self._collector = collector
        self._line = line
        self._noise = noise
        self.memory: list[float] = []
        self.back: list[float] = []
        self.of: dict[str, Callable[[], None]] = {
            "collector killed": self.kill,
            "job killed": job.die,
            "line cut": line.cut,
            "line silent": lambda: self._line_is("silent", 2.0),
            "line slow": lambda: self._line_is("slow", 2.0),
            "collector stands still": self.stand_still,
            "disk takes nothing": self.fill_disk,
        }

    def kill(self) -> None:
        """SIGKILL and a new start, at once or after a while."""
        self.memory.append(self._collector.memory)
        self._collector.end(signal.SIGKILL)
        time.sleep(self._noise.random() * 0.3)
        began = time.monotonic()
        self._collector.start()
        self.back.append(time.monotonic() - began)

    def stand_still(self) -> None:
        """SIGSTOP for a while."""
        with self._collector.signalled(signal.SIGSTOP, signal.SIGCONT):
            time.sleep(1.5)

    def fill_disk(self) -> None:
        """No file of the collector may grow for a while."""
        with self._collector.full_disk():
            time.sleep(1.5)

    def _line_is(self, how: str, seconds: float) -> None:
        setattr(self._line, how, True)
        time.sleep(seconds)
        setattr(self._line, how, False)


def soak(folder: Path, kills: int, jobs: int, hours: float) -> dict[str, Any]:
    """All of it; see the module."""
    noise = random.Random(0)
    often = {"collector killed": kills, "job killed": jobs, "line cut": kills // 2}
    often |= dict.fromkeys(
        ("line silent", "line slow", "collector stands still", "disk takes nothing"), max(1, kills // 20)
    )
    done: Counter[str] = Counter()
    grown: list[tuple[float, float, int]] = []
    with ExitStack() as stack:
        collector = stack.enter_context(Collector(folder))
        line = stack.enter_context(RoughLine(collector.inlet))
        crowd = stack.enter_context(Crowd("light", LIGHT, collector.inlet, [None], ranks=10))
        outboxes, job = Outboxes(line), Job(collector.inlet)
        faults = Faults(collector, line, job, noise)
        crowd.report(LIGHT_RATE)
        began = time.monotonic()
        while not done or time.monotonic() - began < hours * 3600:
            names = list(Counter(often).elements())
            noise.shuffle(names)
            for name in names:
                time.sleep(noise.random() * 0.6)
                faults.of[name]()
                done[name] += 1
                grown.append((time.monotonic() - began, _memory(), len(list(Path("/proc/self/fd").iterdir()))))
        crowd.report(0)
        ran = time.monotonic() - began
        job.end()
        made = outboxes.end()
        crowd.until(PATIENCE)
        made |= crowd.made()
        _deliver_the_dead()
        record = _record(collector, made, job.put)
    return {
        "minutes": ran / 60,
        "faults": dict(done),
        **record,
        "collector_ready_seconds": {
            "median": float(np.median(faults.back)),
            "last": faults.back[-1],
            "max": max(faults.back),
        },
        "collector_megabytes": {
            "first_life": faults.memory[0],
            "last_life": faults.memory[-1],
            "max": max(faults.memory),
        },
        "agent": _slopes(grown),
    }


def _memory() -> float:
    """Resident megabytes of this process, in which the outboxes live."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _slopes(grown: list[tuple[float, float, int]]) -> dict[str, float]:
    settled = [each for each in grown if each[0] >= WARM_UP * grown[-1][0]]
    minutes, megabytes, files = (np.array(column, dtype=float) for column in zip(*settled, strict=True))
    slope = float(np.polyfit(minutes / 60, megabytes, 1)[0]) if len(settled) > 1 else 0.0
    return {
        "megabytes_first": float(megabytes[0]),
        "megabytes_last": float(megabytes[-1]),
        "megabytes_a_minute": slope,
        "descriptors_first": float(files[0]),
        "descriptors_last": float(files[-1]),
        "descriptors_max": float(files.max()),
    }


def _deliver_the_dead() -> None:
    command = [sys.executable, "-c", "from probe_agent.cli import main; main()", "spool", "deliver"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)  # noqa: S603 - our own


def _record(collector: Collector, made: dict[tuple[str, int], int], put: dict[str, int]) -> dict[str, Any]:
    missing = doubled = reports = 0
    for run in {run for run, _ in made}:
        kept = collector.kept(run)
        asked = {(rank, step) for (of, rank), count in made.items() if of == run for step in range(1, count + 1)}
        reports += len(asked)
        missing += len(asked - kept.keys())
        doubled += kept.total() - len(kept) + len(kept.keys() - asked)
    holes, last = 0, []
    for run, count in put.items():
        kept = collector.kept(run)
        doubled += kept.total() - len(kept)
        furthest = max((step for _, step in kept), default=0)
        holes += furthest - len(kept)
        last.append(max(0, count - furthest))
    return {
        "reports": reports,
        "missing": missing,
        "doubled": doubled,
        "job_reports": sum(put.values()),
        "job_holes": holes,
        "job_last_reports_lost": last,
        "job_seconds_lost_at_most": max(last, default=0) / JOB_RATE,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Faults without end.")
    parser.add_argument("--kills", type=int, default=100, help="of the collector, a round")
    parser.add_argument("--jobs", type=int, default=20, help="kills of a job, a round")
    parser.add_argument("--hours", type=float, default=0.0, help="rounds are repeated for so long; there is always one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk, which /tmp may not be
        os.environ["PHASEWATCH_SPOOL"] = str(Path(folder) / "spool")
        found = soak(Path(folder), given.kills, given.jobs, given.hours)
    where = {name: value for name, value in machine().items() if name not in ("versions", "threads")}
    versions = {"pyzmq": zmq.__version__, "libzmq": zmq.zmq_version(), "kernel": platform.release()}
    results = {"machine": where | versions} | found
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "soak.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "soak.md").write_text(page(results))
    Console().print(page(results))


def page(found: dict[str, Any]) -> str:
    """The results for people."""
    where = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    faults = ", ".join(f"{name} {often}" for name, often in sorted(found["faults"].items()))
    ready, memory, agent = found["collector_ready_seconds"], found["collector_megabytes"], found["agent"]
    lines = [
        "# Faults without end",
        "",
        f"`benchmarks/soak.py`, {found['minutes']:.1f} minutes; {where}.",
        "",
        f"Faults: {faults}.",
        "",
        "| | |",
        "|---|---:|",
        f"| reports of {OUTBOXES} outboxes over a rough line and of {LIGHT} light agents | {found['reports']:,} |",
        f"| of these not in the store | {found['missing']} |",
        f"| in the store twice, or never made | {found['doubled']} |",
        f"| reports of a job that was killed | {found['job_reports']:,} |",
        f"| of these missing before the last one kept | {found['job_holes']} |",
        f"| put less than so many seconds before a kill, and lost | {found['job_seconds_lost_at_most']:.2f} |",
        f"| the collector ready after a kill, s: median / last / longest | {ready['median']:.1f} / {ready['last']:.1f} / {ready['max']:.1f} |",
        f"| its memory at the end of its first / last life, MB | {memory['first_life']:.0f} / {memory['last_life']:.0f} |",
        f"| memory of the process with the outboxes, MB | {agent['megabytes_first']:.1f} → {agent['megabytes_last']:.1f} |",
        f"| its slope, MB a minute | {agent['megabytes_a_minute']:.3f} |",
        f"| its open files | {agent['descriptors_first']:.0f} → {agent['descriptors_last']:.0f} |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
