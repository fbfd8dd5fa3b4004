"""Daemon: puts the parts together, in the order they start and stop."""

import signal
import socket
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import FrameType

import uvicorn

from collector.config import Config
from collector.errors import BindError
from collector.exporter import Exporter
from collector.health import Health
from collector.inlet import Inlet
from collector.live import Live
from collector.log import event
from collector.phases.own import with_own
from collector.pipeline import Pipeline
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.web.app import create_app
from collector.web.feed import Feed
from collector.web.record import Record, TurnRecord


class Daemon:
    """A collector, from its first bind to its last commit.

    Constructing it opens the store and both sockets, so that what cannot work fails at the door.

    Raises:
        CollectorError: the store cannot be opened or an address is taken.
        MachineError: a machine of one's own contradicts itself.
    """

    def __init__(self, config: Config) -> None:
        machines = with_own(config.phases.machines)
        self._health = Health()
        self._live = Live()
        self._feed = Feed(on_tick_dropped=self._health.ticks_dropped.inc, on_overflow=self._health.page_overflows.inc)
        self._store = Store(Path(config.store.path))
        self._pipeline = Pipeline(
            self._store,
            self._live,
            self._health,
            (self._feed,),
            tick=self._feed.tick,
            machines=machines,
            alpha=config.phases.alpha,
        )
        self._inlet = Inlet(config.inlet.address, self._pipeline, self._health)
        self._pipeline.wish = self._inlet.wish
        try:
            self._web_socket = _listen(config.web.host, config.web.port)
        except BindError:
            self._inlet.stop()
            self._store.close()
            raise
        self.inlet_address = self._inlet.address
        self.page_address = f"http://{_host(config.web.host)}:{self._web_socket.getsockname()[1]}"
        exporter = Exporter(
            self._live,
            self._health,
            {machine.name: [phase.name for phase in machine.phases] for machine in machines},
            series_limit=config.metrics.series_limit,
            run_series_limit=config.metrics.run_series_limit,
            finished_grace_seconds=config.metrics.finished_grace_seconds,
        )
        reader = Reader(self._store.path)
        record = Record(reader, machines, config.phases.alpha, publish=self._publish)

        def metrics() -> bytes:
            record.refresh()
            return exporter.render()

        app = create_app(
            reader,
            self._live,
            self._feed,
            metrics=metrics,
            ready=lambda: self._inlet.alive,
            allowed_hosts=(config.web.host, *config.web.allowed_hosts),
            address=self.inlet_address,
            machines=machines,
            record=record,
        )
        self._server = _Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="on",
                ws="none",
                timeout_graceful_shutdown=2,  # uvicorn otherwise waits for ever on open event streams
                server_header=False,
            ),
            self._feed,
        )

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
        with closing(self._store), closing(self._web_socket):
            self._pipeline.recover()
            self._inlet.start()
            event("collector.started", inlet=self.inlet_address, page=self.page_address, store=self._store.path)
            try:
                self._server.run(sockets=[self._web_socket])
            finally:
                self._inlet.stop()
                event("collector.stopped")


class _Server(uvicorn.Server):
    """uvicorn's server, which ends the page's event streams as soon as it is asked to stop."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop arrived."""
        event("collector.stopping", signal=signal.Signals(sig).name)
        self._feed.close()
        super().handle_exit(sig, frame)


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
