"""What delivery costs the training process, and what a week without a collector takes on its disk.

    python benchmarks/delivery.py

*put* is what the training thread does for a report: timed one by one, with the outbox's thread at work. *The thread* is the processor
time of the whole process per report, encoding, disk and network together, with a spool and with memory alone, taking turns, while a
collector's socket takes and acknowledges. *A week* is one report a second for seven days into a spool that nobody empties: reports of
20 points, three float64 of pure noise each, the worst there is to pack; or half of them without a paired error, as exact quantities
are. Prints, and writes benchmarks/results/delivery.json and delivery.md.
"""

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from estimators import machine
from rich.console import Console

from probe_agent.complaints import Complaints
from probe_agent.draft import Draft
from probe_agent.outbox import ZmqOutbox
from probe_agent.stream import Stream
from probe_post import spools
from probe_post.ledger import Ledger
from probe_post.spool import Spool
from probe_wire import Ack, Column, Estimate, Hello, ProbeCost, Quantity, Report, Run, decode_for_collector, encode

RESULTS = Path(__file__).parent / "results"
POINTS = 20
WEEK = 7 * 86_400
RUN = Run("run-1", "delivery", "host", 1, 0.0)
QUANTITIES = [Quantity(f"quantity_{i}", "1", "Help.", "Title") for i in range(POINTS)]


def drafts(count: int, noisy: float, seed: int = 0) -> list[Draft]:
    """Reports of ``POINTS`` points of noise, of which a share has a paired error."""
    noise = np.random.default_rng(seed)
    values = np.exp(noise.normal(size=(count, POINTS, 3)))
    values[:, int(noisy * POINTS) :, 2] = np.nan
    costs = (ProbeCost("fisher_trace", 0.0), ProbeCost("sharpness", 0.0))
    return [
        Draft(
            step * 50,
            1.79e9 + step,
            [
                (q, Column(q.name), Estimate(float(value), float(stderr), float(paired), 256))
                for q, (value, stderr, paired) in zip(QUANTITIES, values[step], strict=True)
            ],
            tuple(ProbeCost(c.probe, float(noise.random())) for c in costs),
            float(step),
            step / 100,
        )
        for step in range(count)
    ]


class Taker(threading.Thread):
    """A collector's socket that acknowledges everything and keeps nothing."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        super().__init__(daemon=True)
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind("tcp://127.0.0.1:*")
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.done = threading.Event()
        self.seconds = 0.0

    def run(self) -> None:
        """Until ``done``."""
        while not self.done.is_set():
            if not self._socket.poll(50):
                continue
            began = time.thread_time()
            highest: dict[bytes, int] = {}
            for _ in range(1000):
                try:
                    identity, data = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                message = decode_for_collector(data)
                if isinstance(message, Hello):
                    highest[identity] = message.first - 1
                elif isinstance(message, Report):
                    highest[identity] = message.seq
            for identity, high in highest.items():
                self._socket.send_multipart([identity, encode(Ack(high))])
            self.seconds += time.thread_time() - began
        self._socket.close()


def putting(given: Sequence[Draft], root: Path | None) -> dict[str, float]:
    """Microseconds of `put`, and of the process per report without the generator's and the taker's own."""
    with zmq.Context() as context:
        taker = Taker(context)
        taker.start()
        outbox = ZmqOutbox(taker.address, RUN, 0, lambda: 0, root=root)
        outbox._courier.hurry()  # noqa: SLF001 - the pace at which it catches up is not what is measured
        times: list[float] = []
        began, mine, theirs = time.process_time(), time.thread_time(), taker.seconds
        for draft in given:
            at = time.perf_counter()
            outbox.put(draft)
            times.append(time.perf_counter() - at)
            time.sleep(0.0005)
        while outbox.undelivered:
            time.sleep(0.01)
        spent = time.process_time() - began - (time.thread_time() - mine) - (taker.seconds - theirs)
        outbox.close("finished")
        taker.done.set()
        taker.join()
    cuts = np.quantile(times, [0.5, 0.99, 0.999]) * 1e6
    return {"p50": cuts[0], "p99": cuts[1], "p999": cuts[2], "process": spent / len(given) * 1e6}


def week(noisy: float, folder: Path) -> dict[str, float]:
    """Seven days at a report a second: megabytes, processor microseconds a report, and seconds to take it up again."""
    stream = Stream(RUN, 0, lambda: 0, tightens=False)
    hello = stream.hello(1)
    spool = spools.create(folder, "tcp://away:1", hello, encode(hello), cap=2**40)
    ledger = Ledger(10_000, Complaints())
    ledger.use(spool)
    given = drafts(2000, noisy)
    began = time.process_time()
    for seq in range(1, WEEK + 1):
        ledger.append(stream.report(given[seq % len(given)], seq, 0))
    spent = time.process_time() - began
    size = spool.size
    spool.forsake()
    began = time.perf_counter()
    adopted = Spool.adopt(spool.folder)
    if adopted is None:
        raise RuntimeError("the spool of a week cannot be taken up")
    taken_up = time.perf_counter() - began
    again = Ledger(10_000, Complaints())
    again.use(adopted)
    began, count = time.perf_counter(), 0
    while len(again):
        batch = list(again.beyond(again.first - 1))
        count += len(batch)
        again.acknowledge(batch[-1].seq)
    read = time.perf_counter() - began
    again.close()
    return {
        "megabytes": size / 1e6,
        "bytes_a_report": size / WEEK,
        "microseconds_a_report": spent / WEEK * 1e6,
        "seconds_to_take_up": taken_up,
        "seconds_to_read": read,
        "reports_read": count,
        "reports_lost": again.lost,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="What delivery costs the training process.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reports", type=int, default=4000)
    given = parser.parse_args()
    reports = drafts(given.reports, 0.5)
    rounds: dict[str, list[dict[str, float]]] = {"spool": [], "memory": []}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk, which /tmp may not be
        for _ in range(given.rounds):
            for kind in random.sample(sorted(rounds), 2):
                rounds[kind].append(putting(reports, Path(folder) / "put" if kind == "spool" else None))
        weeks = {str(noisy): week(noisy, Path(folder) / f"week-{noisy}") for noisy in (1.0, 0.5)}
    results: dict[str, Any] = {
        "machine": {name: value for name, value in machine().items() if name != "versions"}
        | {"pyzmq": zmq.__version__, "libzmq": zmq.zmq_version()},
        "reports": given.reports,
        "rounds": given.rounds,
        "microseconds": {
            kind: {name: statistics.median(each[name] for each in of) for name in of[0]} for kind, of in rounds.items()
        },
        "week": weeks,
    }
    (RESULTS / "delivery.json").write_text(json.dumps(results, indent=1) + "\n")
    text = page(results)
    (RESULTS / "delivery.md").write_text(text)
    Console().print(text)


def page(results: dict[str, Any]) -> str:
    """The results for people."""
    what = (
        f"{results['reports']:,} reports of {POINTS} points a round, medians of {results['rounds']} rounds taking turns"
    )
    where = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = [
        "# What delivery costs the training process",
        "",
        f"`benchmarks/delivery.py`, {what}; {where}.",
        "",
        "| reports wait | put p50 µs | p99 | p99.9 | CPU of the process a report µs |",
        "|---|---|---|---|---|",
    ]
    for kind, of in results["microseconds"].items():
        where = "on disk" if kind == "spool" else "in memory"
        lines.append(f"| {where} | {of['p50']:.2f} | {of['p99']:.2f} | {of['p999']:.1f} | {of['process']:.0f} |")
    lines += [
        "",
        f"A week without a collector, one report of {POINTS} points a second ({WEEK:,} reports):",
        "",
        "| points with three noisy numbers | MB | bytes a report | CPU a report µs | taken up after a kill in s | read back in s | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for noisy, of in results["week"].items():
        lines.append(
            f"| {float(noisy):.0%} | {of['megabytes']:.0f} | {of['bytes_a_report']:.0f} | {of['microseconds_a_report']:.0f} "
            f"| {of['seconds_to_take_up']:.2f} | {of['seconds_to_read']:.0f} | {of['reports_lost']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
