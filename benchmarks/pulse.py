"""How old the news is when it is seen: an agent whose reports say when they were made, and who looks for them on /metrics and the feed."""

import json
import re
import threading
import time
import urllib.request
from collections import deque
from contextlib import suppress
from typing import Any, Self

import numpy as np
import zmq
from light_client import Client, schema_of
from own_collector import Collector

from probe_wire import Estimate, Quantity, Report, pack

SECONDS_BETWEEN = 0.01
RUN = "pulse"
MADE = Quantity("made_at", "1", "Unix time at which the report was made.", "Made at")


class _Reporting(Client):
    """Says in each report when it was made, and remembers it."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", collector: Collector) -> None:
        super().__init__(context, collector.inlet, collector.keys[-1], (RUN, 0), schema_of((MADE,)), ())
        self.at: deque[tuple[int, float]] = deque()

    def report(self, seq: int) -> Report:
        """The report of now."""
        now = time.time()
        self.at.append((seq, now))
        return Report(seq, seq, now, 1, *pack([Estimate(now, 0.0, 0.0, 1)]))


class Pulse:
    """Begins with the context, to report a hundred times a second. Ages are in seconds, since `forget` was called last.

    Its run should be the first the collector hears of: of a page of /metrics that is full, the older runs are seen.

    Attributes:
        feed: of every report, when the tick that told of it, or of a later one, was read by the page.
        ticks: of the newest report that a tick told of, when it was read.
        metrics: of the report on /metrics, when the answer had been read.
        scrapes: how long each answer took.
        lines: of the last answer.
    """

    def __init__(self, collector: Collector) -> None:
        self.feed: list[float] = []
        self.ticks: list[float] = []
        self.metrics: list[float] = []
        self.scrapes: list[float] = []
        self.lines = 0
        self._collector = collector
        self._ended = threading.Event()
        self._at: deque[tuple[int, float]] = deque()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._report, self._listen)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(20)

    def forget(self) -> None:
        """Begin to measure anew."""
        for ages in (self.feed, self.ticks, self.metrics, self.scrapes):
            ages.clear()

    def scrape(self) -> None:
        """Read /metrics once, and see how old the pulse on it is."""
        began = time.time()
        page = self._collector.get("/metrics")
        now = time.time()
        self.scrapes.append(now - began)
        self.lines = page.count("\n")
        found = re.search(rf'^phasewatch_made_at{{run="{RUN}",rank="0"}} (\S+)$', page, re.MULTILINE)
        if found:
            self.metrics.append(now - float(found[1]))

    def _report(self) -> None:
        with zmq.Context() as context:
            client = _Reporting(context, self._collector)
            self._at = client.at
            while not self._ended.wait(SECONDS_BETWEEN):
                client.made += 1
                now = time.monotonic()
                client.hear(now)
                client.turn(now)
            client.socket.close(linger=0)

    def _listen(self) -> None:
        address = self._collector.page + "/api/feed"
        with suppress(OSError), urllib.request.urlopen(address, timeout=20) as feed:  # noqa: S310 - our own page
            name = b""
            for line in feed:
                if self._ended.is_set():
                    return
                if line.startswith(b"event:"):
                    name = line[6:].strip()
                elif line.startswith(b"data:") and name == b"tick":
                    self._heard(json.loads(line[5:]), time.time())

    def _heard(self, ticks: list[dict[str, Any]], now: float) -> None:
        for step in (tick["step"] for tick in ticks if tick["run"] == RUN):
            told = []
            while self._at and self._at[0][0] <= step:
                told.append(now - self._at.popleft()[1])
            self.feed += told
            self.ticks += told[-1:]


def cuts(ages: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest in milliseconds; nothing of nothing."""
    if not ages:
        return {}
    median, high = np.quantile(ages, [0.5, 0.99]) * 1000
    return {"p50": float(median), "p99": float(high), "max": max(ages) * 1000, "n": len(ages)}
