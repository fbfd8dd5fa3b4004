"""Daemon: puts the parts together, in the order they start and stop."""

import gc
import os
import resource
import socket
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from collector.access import access_in_words, check_certificate, keys_asked_for, tokens_asked_for
from collector.config import Config
from collector.errors import BindError, CollectorError
from collector.exporter import Exporter
from collector.gate import Gate
from collector.health import Health
from collector.inlet import Inlet
from collector.live import Live, RankState
from collector.log import event
from collector.phases.own import with_own
from collector.pipeline import Pipeline
from collector.store.damage import Damaged
from collector.store.queries import Reader
from collector.store.retention import Policy
from collector.store.space import wal_bytes_of
from collector.store.sqlite import Store
from collector.web.app import create_app
from collector.web.feed import Feed
from collector.web.record import Record, TurnRecord
from collector.web.server import Server

DESCRIPTORS = 65_536

SWITCH_SECONDS = 0.001
"""For how long a thread that renders a page may keep the inlet from its turn; Python's own 5 ms, at every statement, add up."""


class Daemon:
    """A collector, from its first bind to its last commit.

    Constructing it opens the store and both sockets, so that what cannot work fails at the door.

    Raises:
        CollectorError: who may come in cannot be told, the store cannot be opened, or an address is taken.
        MachineError: a machine of one's own contradicts itself.
    """

    def __init__(self, config: Config) -> None:
        machines = with_own(config.phases.machines)
        check_certificate(config)
        keys, tokens = keys_asked_for(config), tokens_asked_for(config)
        self._health = Health()
        self._live = Live(config.limits.runs, config.limits.series)
        self._feed = Feed(on_tick_dropped=self._health.ticks_dropped.inc, on_overflow=self._health.page_overflows.inc)
        self._store = Store(Path(config.store.path), Policy(config.store.keep_days, config.store.max_bytes))
        self._store.upkeep_failed = self._health.upkeep_failures.inc
        self._store.damage.lost = self._lost
        self._pipeline = Pipeline(
            self._store,
            self._live,
            self._health,
            (self._feed,),
            tick=self._feed.tick,
            machines=machines,
            alpha=config.phases.alpha,
            run_series=config.limits.run_series,
        )
        try:
            gate = Gate(config.inlet.address, keys, self._health)
        except CollectorError:
            self._store.close()
            raise
        self._inlet = Inlet(gate, self._pipeline, self._health, reports_per_second=config.limits.reports_per_second)
        self._pipeline.wish = self._inlet.wish
        try:
            self._web_socket = _listen(config.web.host, config.web.port)
        except BindError:
            self._inlet.stop()
            self._store.close()
            raise
        self.inlet_address = gate.address
        scheme = "https" if config.web.tls_cert else "http"
        self.page_address = f"{scheme}://{_host(config.web.host)}:{self._web_socket.getsockname()[1]}"
        exporter = Exporter(
            self._live,
            self._health,
            {machine.name: [phase.name for phase in machine.phases] for machine in machines},
            series_limit=config.metrics.series_limit,
            run_series_limit=config.metrics.run_series_limit,
            finished_grace_seconds=config.metrics.finished_grace_seconds,
        )
        reader = Reader(self._store.path)
        self._watch(reader)
        record = Record(reader, machines, config.phases.alpha, publish=self._publish)

        def metrics() -> bytes:
            record.refresh()
            return exporter.render()

        app = create_app(
            reader,
            self._live,
            self._feed,
            metrics=metrics,
            ready=lambda: self._inlet.ready,
            alive=lambda: self._inlet.alive,
            allowed_hosts=(config.web.host, *config.web.allowed_hosts),
            address=self.inlet_address,
            guarded=gate.guarded,
            machines=machines,
            record=record,
            health=self._health,
            carry_out=self._inlet.orders.carry_out,
            tokens=tokens,
            behind_proxy=config.web.behind_proxy,
        )
        self.access = access_in_words(config, keys, tokens)
        self._server = Server(app, self._feed, (config.web.tls_cert, config.web.tls_key))

    def _watch(self, reader: Reader) -> None:
        """What Prometheus may ask of the machine and of our own queues."""
        most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._health.ask("store_bytes", lambda: reader.space().stored)
        self._health.ask("store_wal_bytes", lambda: wal_bytes_of(self._store.path))
        self._health.ask("store_disk_used_ratio", lambda: reader.space().disk_used_ratio)
        self._health.ask("open_files_ratio", lambda: len([*os.scandir("/proc/self/fd")]) / most_files)
        self._health.ask("sessions", lambda: self._inlet.sessions)
        self._health.ask("runs_in_memory", lambda: len(self._live.runs))
        self._health.ask("unsealed_streams", lambda: self._store.unsealed)
        self._health.ask("unjudged_reports", lambda: self._pipeline.judges.waiting)
        self._health.ask("inlet_age_seconds", lambda: self._inlet.age)

    def _lost(self, damaged: Damaged) -> None:
        self._health.lost.inc(damaged.messages)
        with self._live.lock:
            if (run := self._live.runs.get(damaged.run_id)) is not None:
                run.ranks.setdefault(damaged.rank, RankState()).lost += damaged.messages

    def _publish(self, turns: Iterable[TurnRecord]) -> None:
        for turn in turns:
            self._health.realise(
                (turn.machine, turn.from_phase, turn.to_phase),
                judged=turn.labelled,
                false_alarms=turn.false_alarms,
                upper=turn.interval[1],
                delay=turn.delay,
            )

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then commit, acknowledge and close within five seconds."""
        _take_all_descriptors()
        gc.freeze()
        # Reports make no cycles; looking for them took a fifth of the time under load.
        gc.set_threshold(100_000, 50, 1000)
        sys.setswitchinterval(SWITCH_SECONDS)
        with closing(self._store), closing(self._web_socket):
            self._pipeline.recover()
            self._inlet.start()
            event("collector.started", inlet=self.inlet_address, page=self.page_address, store=self._store.path)
            try:
                self._server.run(sockets=[self._web_socket])
            finally:
                self._inlet.stop()
                self._pipeline.judges.close()
                event("collector.stopped")


def _take_all_descriptors() -> None:
    """Each agent and each page takes a file descriptor, and the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise BindError(
            f"Got the page's address {host}:{port}, which cannot be listened on: {error.strerror}. "
            "Is another collector running? Choose another with --web-port, or 0 for a free one."
        ) from error
    return listening


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
