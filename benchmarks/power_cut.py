"""Power cuts: whether what was acknowledged is in the store, and what was written a second ago in the spool, at whatever moment the power goes.

    python benchmarks/power_cut.py [--cuts 300] [--seconds 20] [--out FOLDER]

A real collector takes reports from four light agents, and a real job reports into its spool with no collector there, each under strace. Then,
so many times, a moment is drawn; the files are put together as a disk may hold them after a power cut then (`recorded_disk`: writes that
were not synced yet are kept, lost or torn by sectors); and they are opened by the product:

- *store*: opens, its doctor finds nothing, every report acknowledged before that moment is there once and nothing that was not made;
- *spool*: is taken up or put aside, gives back what was put as it was put, and misses nothing that was put so many seconds before.

Prints, and writes power_cut.json and power_cut.md. Needs strace.
"""

import argparse
import json
import os
import platform
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import zmq
from estimators import machine
from light_client import Client, noisy_columns, quantities, schema_of
from own_collector import Collector
from recorded_disk import STRACE, Disk, Done, recorded

from collector.store.examination import examine
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_post import spools
from probe_post.spool import Spool
from probe_wire import Report, decode_for_collector

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
AGENTS, RATE = 4, 400.0
RUN = "power"
JOB_RATE = 200
Acknowledged = list[tuple[float, int, int]]
"""Unix time, rank, and the number up to which the agent was told that all is kept."""


def acknowledged_by(folder: Path, seconds: float) -> tuple[list[Done], Acknowledged, int]:
    """What a collector did to its store under load, what it acknowledged when, and how many reports each agent made."""
    trace, home = folder / "trace", folder / "home"
    home.mkdir()
    heard: Acknowledged = []
    with Collector(home, before=(*STRACE, "-o", str(trace))) as collector, zmq.Context() as context:
        measured = schema_of(quantities(0))
        columns = noisy_columns(20)
        clients = [Client(context, collector.inlet, None, (RUN, rank), measured, columns) for rank in range(AGENTS)]
        began = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            for client in clients:
                before = client.acknowledged
                client.hear(now)
                if client.acknowledged != before:
                    heard.append((time.time(), client.name[1], client.acknowledged))
                client.made = int((now - began) * RATE / AGENTS)
                client.turn(now)
            time.sleep(0.002)
        made = max(client.made for client in clients)
        for client in clients:
            client.socket.close(linger=0)
    return recorded(trace, home), heard, made


def store_after(image: Path, told: dict[int, int], made: int) -> list[str]:
    """What is wrong with a store after a power cut; nothing, it is to be hoped."""
    path = image / "store.db"
    if not path.exists() and not any(told.values()):
        return []
    Store(path).close()
    wrong = [f"{one.what}: {one.found}" for one in examine(path) if one.remedy and one.what != "permissions"]
    kept = Counter(
        (frame.rank, frame.message.step) for frame in Reader(path).frames(RUN) if isinstance(frame.message, Report)
    )
    missing = [(rank, step) for rank, high in told.items() for step in range(1, high + 1) if (rank, step) not in kept]
    if missing:
        wrong.append(f"{len(missing)} acknowledged reports are missing, the first {missing[0]}")
    if doubled := [each for each, count in kept.items() if count > 1 or not 1 <= each[1] <= made]:
        wrong.append(f"{len(doubled)} reports are there twice or were never made")
    return wrong


def put_by(folder: Path, seconds: float) -> tuple[list[Done], list[float]]:
    """What a job without a collector did to its spool, and when each of its reports was put."""
    trace, home = folder / "job-trace", folder / "spools"
    home.mkdir()
    reporter = [sys.executable, str(ROOT / "tests/integration/reporter.py"), "tcp://127.0.0.1:9", "power", "0"]
    environment = {**os.environ, "PHASEWATCH_SPOOL": str(home), "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(  # noqa: S603 - our own
        [*STRACE, "-o", str(trace), *reporter, str(JOB_RATE), "1000000"], stdout=subprocess.PIPE, env=environment
    )
    assert job.stdout is not None  # noqa: S101 - asked for above
    when: list[float] = []

    def read() -> None:
        when.extend(time.time() for _ in job.stdout or ())

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    deadline = time.monotonic() + 60
    while not when and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(seconds)
    for child in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    job.wait(60)
    reading.join(10)
    job.stdout.close()
    return recorded(trace, home), when


def spool_after(image: Path, when: list[float], at: float) -> tuple[list[str], float]:
    """What is wrong with a spool after a power cut, and how long before it the first report that is missing was put, in seconds."""
    steps: list[int] = []
    wrong: list[str] = []
    for folder in list(spools.everything(image)):
        spool = Spool.adopt(folder)
        if spool is None:
            continue
        while found := list(spool.after(steps[-1] if steps else 0)):
            for message in found:
                report = decode_for_collector(message.data)
                if not isinstance(report, Report) or report.step != message.seq:
                    wrong.append(f"number {message.seq} is not what was put")
                steps.append(message.seq)
        spool.close(delete=False)
    if any(b <= a for a, b in pairwise(steps)):
        wrong.append("numbers do not come in order")
    before = bisect(when, at)
    missing = sorted(set(range(1, before + 1)) - set(steps))
    return wrong, at - when[missing[0] - 1] if missing else 0.0


def cuts(done: list[Done], count: int, chance: random.Random) -> list[int]:
    """So many moments, as places in the record."""
    return sorted(chance.randrange(1, len(done)) for _ in range(count))


def tried(folder: Path, count: int, seconds: float, seed: int) -> dict[str, Any]:
    """Both experiments."""
    chance = random.Random(seed)
    image = folder / "image"
    done, heard, made = acknowledged_by(folder, seconds)
    found: dict[str, Any] = {
        "cuts": count,
        "writes": len(done),
        "reports": made * AGENTS,
        "store_wrong": [],
        "harmed": 0,
    }
    told = dict.fromkeys(range(AGENTS), 0)
    disk, at, listened = Disk(), 0, 0
    for place in cuts(done, count, chance):
        for each in done[at:place]:
            disk.do(each)
        at = place
        while listened < len(heard) and heard[listened][0] < done[place].at:
            _, rank, high = heard[listened]
            told[rank] = high
            listened += 1
        found["harmed"] += disk.cut_power(folder / "home", image, chance)
        try:
            found["store_wrong"] += [f"at {place}: {each}" for each in store_after(image, told, made)]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            found["store_wrong"].append(f"at {place}: {error!r}")
    found["acknowledged"] = sum(told.values())
    done, when = put_by(folder, seconds)
    found |= {"spool_writes": len(done), "put": len(when), "spool_wrong": [], "spool_harmed": 0}
    lost: list[float] = []
    disk, at = Disk(), 0
    for place in cuts(done, count, chance):
        for each in done[at:place]:
            disk.do(each)
        at = place
        found["spool_harmed"] += disk.cut_power(folder / "spools", image, chance)
        try:
            wrong, age = spool_after(image, when, done[place].at)
            found["spool_wrong"] += [f"at {place}: {each}" for each in wrong]
            lost.append(age)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            found["spool_wrong"].append(f"at {place}: {error!r}")
    found |= {"lost_seconds": sorted(lost)[len(lost) // 2], "lost_seconds_most": max(lost)}
    return found


def page(results: dict[str, Any]) -> str:
    """The results for people."""
    where = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    rows = {
        "power cuts of a collector": results["cuts"],
        "reports it took in, all agents together": f"{results['reports']:,}",
        "writes and syncs to choose a moment from": f"{results['writes']:,}",
        "writes lost or torn, over all cuts": f"{results['harmed']:,}",
        "stores that do not open, are damaged, miss what was acknowledged, or have something twice": len(
            results["store_wrong"]
        ),
        "power cuts of a job's machine": results["cuts"],
        "reports it put into its spool": f"{results['put']:,}",
        "writes lost or torn, over all these": f"{results['spool_harmed']:,}",
        "spools that gave back something else than was put": len(results["spool_wrong"]),
        "lost of a job's reports, seconds before the cut: median / most": f"{results['lost_seconds']:.2f} / {results['lost_seconds_most']:.2f}",
    }
    lines = ["# Power cuts", "", f"`benchmarks/power_cut.py`; {where}.", "", "| | |", "|---|---:|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Whether a power cut loses anything that was promised.")
    parser.add_argument("--cuts", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        found = tried(Path(folder), given.cuts, given.seconds, given.seed)
    for each in (*found["store_wrong"], *found["spool_wrong"]):
        print(each)
    where = {name: value for name, value in machine().items() if name not in ("versions", "threads")}
    versions = {"sqlite": sqlite3.sqlite_version, "kernel": platform.release()}
    results = {"machine": where | versions, "seed": given.seed, **found}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "power_cut.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "power_cut.md").write_text(page(results))
    print(page(results))
    with suppress(BrokenPipeError):
        sys.exit(bool(found["store_wrong"] or found["spool_wrong"]))


if __name__ == "__main__":
    main()
