"""Health: the collector's own counters, kept by prometheus-client in a registry of ours."""

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

WISH_ANSWERS = ("sent", "undelivered", "not understood", "no stream", "too many")
REJECTIONS = ("too_large", "version", "bad_message", "unknown_stream", "unknown_schema", "gap", "forbidden", "busy")
REFUSALS = ("unlisted", "revoked", "handshake")
"""Why a peer was not let in: its key is not listed, was revoked, or it never said who it is in the way it must."""
REQUEST_REFUSALS = ("host", "origin", "token", "scope", "rate")
"""Why page and API refused: asked under a foreign name, from a foreign page, without a token, with the lesser one, too often."""
WATCHED = {
    "store_bytes": "Bytes of what is stored.",
    "store_wal_bytes": "Bytes of the store's write-ahead log, which grows for as long as anybody keeps one view of the store open.",
    "store_disk_used_ratio": "Share of the store's disk that is taken, by whatever; when nothing is left nothing more is acknowledged.",
    "open_files_ratio": "Open files and connections beside the most the process may have.",
    "sessions": "Connections of agents that have greeted.",
    "runs_in_memory": "Runs in memory; limits.runs is the most.",
    "unsealed_streams": "Streams of which more is in the store's log than need be; it falls as it is sealed.",
    "unjudged_reports": "Reports that are kept and shown, and judged later: their run is judged again, as it is after an upgrade.",
    "inlet_age_seconds": "Seconds since the inlet's loop last went round.",
}
"""What is asked when Prometheus asks; NaN where nobody could be asked."""
ORDER_ANSWERS = ("taken", "repeated", "refused")


class Health:
    """Every counter exists, at 0, from the start: ``increase()`` must see a first event."""

    def __init__(self) -> None:
        disable_created_metrics()  # a `_created` gauge beside each counter is noise to every reader
        self.registry = CollectorRegistry()
        self.reports = self._counter("reports", "Reports committed to the store.")
        self.duplicates = self._counter(
            "duplicate_reports", "Reports received again after they were committed; not stored twice."
        )
        self.lost = self._counter(
            "lost_reports",
            "Reports that were numbered and are lost: given up by their agent, or damaged on the collector's disk.",
        )
        self.rejected = Counter(
            "phasewatch_rejected_messages",
            "Messages the collector could not take, by reason.",
            ["reason"],
            registry=self.registry,
        )
        for reason in REJECTIONS:
            self.rejected.labels(reason)
        self.refused_connections = Counter(
            "phasewatch_refused_connections",
            "Connections to the inlet that were not let in, by reason.",
            ["reason"],
            registry=self.registry,
        )
        for reason in REFUSALS:
            self.refused_connections.labels(reason)
        self.refused_requests = Counter(
            "phasewatch_refused_requests",
            "Requests to the page, the API and /metrics that nobody may make who comes like that, by reason.",
            ["reason"],
            registry=self.registry,
        )
        for reason in REQUEST_REFUSALS:
            self.refused_requests.labels(reason)
        self.orders = Counter(
            "phasewatch_orders",
            "Orders to measure something more often, given over the API, by what became of them.",
            ["answer"],
            registry=self.registry,
        )
        for answer in ORDER_ANSWERS:
            self.orders.labels(answer)
        self.store_errors = self._counter(
            "store_errors", "Batches undone because the store or a message failed; agents send them again."
        )
        self.upkeep_failures = self._counter(
            "store_upkeep_failures",
            "Times the store could not be tidied, or a stream not be sealed; its reports stay as they came.",
        )
        self.phase_failures = self._counter(
            "phase_failures", "Runs whose phases are no longer judged because their engine failed."
        )
        self.advice_undelivered = self._counter("advice_undelivered", "Advice that could not be handed to its agent.")
        self.wishes = Counter(
            "phasewatch_wishes",
            "Wishes to measure a suspected quantity more often, by what became of them.",
            ["answer"],
            registry=self.registry,
        )
        for answer in WISH_ANSWERS:
            self.wishes.labels(answer)
        self.judged = self._realised(
            "judged",
            "Series of finished runs of which hindsight knows whether the turn was taken; runs where no machine is named.",
        )
        self.false_alarms = self._realised(
            "false_alarms", "In how many of these the turn was claimed and had not been taken."
        )
        self.false_alarm_upper = self._realised(
            "false_alarm_ratio_upper", "Upper end of the 95 % interval of the rate of false alarms."
        )
        self.delay = self._realised("delay_steps", "Median delay of right claims in steps; NaN where there was none.")
        self._watched = {
            name: Gauge(f"phasewatch_{name}", text, registry=self.registry) for name, text in WATCHED.items()
        }
        for gauge in self._watched.values():
            gauge.set(math.nan)
        self.commit_seconds = Histogram(
            "phasewatch_commit_seconds",
            "Seconds one group commit took.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
            registry=self.registry,
        )
        self.ticks_dropped = self._counter(
            "page_ticks_dropped", "Live updates skipped because a page read too slowly; it catches up."
        )
        self.page_overflows = self._counter(
            "page_overflows", "Times a page read so slowly that it was told to reload instead of each transition."
        )
        self.refused_series = self._counter(
            "refused_series", "Series left out of /metrics because the series limit was reached."
        )

    def ask(self, name: str, what: Callable[[], float]) -> None:
        """Have one of `WATCHED` asked of this whenever Prometheus asks."""

        def asked() -> float:
            try:
                return what()
            except Exception:  # noqa: BLE001 - a disk that does not answer must not take the whole page with it
                return math.nan

        self._watched[name].set_function(asked)

    def realise(
        self, turn: tuple[str, str, str], *, judged: int, false_alarms: int, upper: float, delay: float | None
    ) -> None:
        """What hindsight says of a turn's claims in finished runs; ``turn`` is its machine and phases, all empty for runs."""
        self.judged.labels(*turn).set(judged)
        self.false_alarms.labels(*turn).set(false_alarms)
        self.false_alarm_upper.labels(*turn).set(upper)
        self.delay.labels(*turn).set(math.nan if delay is None else delay)

    def _realised(self, name: str, text: str) -> Gauge:
        labels = ["machine", "from_phase", "to_phase"]
        return Gauge(f"phasewatch_realised_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"phasewatch_{name}", text, registry=self.registry)
