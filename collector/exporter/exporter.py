"""Exporter: one page for one scrape, from what Live holds, what Health counted and what the process costs."""

import platform
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest

from collector.exporter import catalogue as c
from collector.exporter.estimates import SERIES_PER_ESTIMATE, Names, RunEstimates
from collector.exporter.room import REASONS, Refused, Room, Share
from collector.exporter.run_page import Machines, write_noise, write_probes, write_ranks, write_run, write_transitions
from collector.exporter.still import Album, Patience, Still
from collector.exporter.text import Page
from collector.health import Health
from collector.live import Live, State


class Exporter:
    """Answers a scrape.

    Args:
        live: the runs.
        health: the collector's own counters.
        machines: the phases of each machine, in their order.
        series_limit: the most series about runs on a page; about 2.3 KiB each in Prometheus's memory.
        run_series_limit: the most of one run, so that a run of many layers does not push out the others.
        finished_grace_seconds: how long a finished run stays, for a last scrape and a look at its end.
        silent_grace_seconds: how long a run that never said goodbye stays, for somebody to be told.
        clock: Unix time.
    """

    def __init__(
        self,
        live: Live,
        health: Health,
        machines: Machines,
        *,
        series_limit: int = 50_000,
        run_series_limit: int = 10_000,
        finished_grace_seconds: float = 600.0,
        silent_grace_seconds: float = 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._health = health
        self._machines = {machine: tuple(phases) for machine, phases in machines.items()}
        self._series_limit = series_limit
        self._run_series_limit = run_series_limit
        self._patience = Patience(finished_grace_seconds, silent_grace_seconds)
        self._clock = clock
        self._estimates: dict[str, RunEstimates] = {}
        self._rendering = threading.Lock()  # two servers may ask at once; the prefixes are shared
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._reserved = frozenset(family.name for family in c.CATALOGUE) | _names(health.registry)

    def render(self) -> bytes:
        """The page, in the text format 0.0.4."""
        with self._rendering:
            page = self._runs()
        return page.encode() + generate_latest(self._health.registry) + generate_latest(self._process)

    def _runs(self) -> Page:
        most, of_one = (limit // SERIES_PER_ESTIMATE for limit in (self._series_limit, self._run_series_limit))
        album = Album(self._live, self._patience, self._clock(), most, of_one)
        page, room, names = Page(), Room(self._series_limit), Names(self._reserved)
        self._estimates = {run_id: known for run_id, known in self._estimates.items() if run_id in album.ids}
        for still in album:
            estimates = self._of(still)
            estimates.learn(still)
            share = Share(room, self._run_series_limit, estimates.refused)
            write_run(page, still, self._machines, share)
            write_ranks(page, still, share)
            write_probes(page, still, estimates.outcomes(still), share)
            write_transitions(page, still, self._machines, estimates.layers, share)
            write_noise(page, still, estimates.layers, share)
            estimates.write(page, still, names, share)
        self._health.refused_series.inc(room.newly_refused)
        series = page.series
        page.add(c.SERIES, [], series)
        page.add(c.SERIES_LIMIT, [], self._series_limit)
        for reason in REASONS:
            page.add(c.SERIES_REFUSED, [("reason", reason)], room.refused[reason])
        for state in get_args(State):
            page.add(c.RUNS, [("state", state)], album.states[state])
        page.add(c.RUNS_EVICTED, [], album.evicted)
        page.add(c.BUILD_INFO, [("version", _release()), ("python", platform.python_version())], 1)
        return page

    def _of(self, still: Still) -> RunEstimates:
        known = self._estimates.get(still.run.id)
        if known is None or known.label != still.label:  # a run made anew in memory may be called otherwise
            refused = Refused() if known is None else known.refused
            known = self._estimates[still.run.id] = RunEstimates(still.label, refused)
        return known


def _names(registry: CollectorRegistry) -> frozenset[str]:
    return frozenset(sample.name for family in registry.collect() for sample in family.samples)


@cache
def _release() -> str:
    try:
        return version("phasewatch")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
