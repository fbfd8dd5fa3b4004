"""Health: the collector's own counters, kept by prometheus-client in a registry of ours."""

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

WISH_ANSWERS = ("sent", "undelivered", "not understood", "no stream", "too many")
REJECTIONS = ("too_large", "version", "bad_message", "unknown_stream", "unknown_schema", "gap")


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
            "lost_reports", "Reports an agent numbered but gave up before the collector had them."
        )
        self.rejected = Counter(
            "phasewatch_rejected_messages",
            "Messages the collector could not take, by reason.",
            ["reason"],
            registry=self.registry,
        )
        for reason in REJECTIONS:
            self.rejected.labels(reason)
        self.store_errors = self._counter(
            "store_errors", "Batches undone because the store or a message failed; agents send them again."
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

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"phasewatch_{name}", text, registry=self.registry)
