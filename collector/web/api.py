"""The JSON the page lives on: runs, one run, points, transitions. Synchronous, so that reads run in threads."""

import time
from collections.abc import Mapping, Sequence

import msgspec
from starlette.exceptions import HTTPException

from collector.live import Live
from collector.phases import MACHINES, Machine, Span
from collector.phases.spans import spans_of
from collector.store.queries import Points, Reader, RunRow
from collector.web.record import Record
from collector.web.views import (
    OUTCOMES,
    RunDetail,
    RunView,
    known_phases,
    phase_view,
    probe_views,
    quantity_views,
    rank_views,
    run_view,
)

MAX_RUNS = 500
DEFAULT_POINTS = 4_000
MAX_POINTS = 20_000
MOST_TIMES = 2_000
MAX_POINTS_IN_ALL = 400_000
"""Of one answer, over all its series: a network of a thousand layers must not make the page choke."""


class RunList(msgspec.Struct, frozen=True):
    """The runs heard last, how many there are in all, where an agent would send to, and whether it needs a key."""

    now: float
    address: str
    total: int
    runs: list[RunView]
    guarded: bool


class SeriesView(msgspec.Struct, frozen=True):
    """One series as columns. ``folded`` points between the ones given were left out; null is NaN."""

    rank: int
    labels: dict[str, str]
    settings: dict[str, str]
    folded: int
    step: list[int]
    value: list[float]
    stderr: list[float]
    paired: list[float]
    n: list[int]
    outcome: list[int]


class SeriesName(msgspec.Struct, frozen=True):
    """One series of a run, without its points; ``ranks`` measure it, of which ``rank`` is the lowest."""

    quantity: str
    labels: dict[str, str]
    rank: int
    ranks: int


class PointsView(msgspec.Struct, frozen=True):
    """The series of one quantity. Ask again with ``after`` set to ``frame`` for what is new.

    ``again``: some of that belongs before what was told, so that all of it is told again.
    """

    quantity: str
    frame: int
    series: list[SeriesView]
    again: bool = False


class TimesView(msgspec.Struct, frozen=True):
    """When steps of a run were, and for how many seconds that ``life`` of its job had run by then.

    In Unix seconds by the clock of the ``job``, or of the ``collector`` where only that was kept. Ask again with ``after`` set
    to ``frame`` for what is new; ``again`` as in `PointsView`.
    """

    clock: str
    frame: int
    step: list[int]
    time: list[float]
    ran: list[float]
    life: list[int]
    again: bool = False


class Api:
    """Answers from the store, with what only memory knows added."""

    def __init__(
        self,
        reader: Reader,
        live: Live,
        address: str,
        machines: Sequence[Machine] = MACHINES,
        record: Record | None = None,
        *,
        guarded: bool = False,
    ) -> None:
        self._reader = reader
        self._guarded = guarded
        self._live = live
        self._address = address
        self._phases = known_phases(machines)
        self._record = record or Record(reader, machines)
        self._stored: dict[tuple[str, float], list[Span]] = {}
        """Of runs that are not in memory, and so the same for as long as they are not heard."""

    def runs(self) -> bytes:
        """The list of runs."""
        rows = self._reader.runs()
        now = time.time()
        views = [self._view(row, now) for row in rows[:MAX_RUNS]]
        return msgspec.json.encode(RunList(now, self._address, len(rows), views, self._guarded))

    def run(self, run_id: str) -> bytes:
        """One run."""
        row = self._row(run_id)
        quantities, series = self._reader.quantities(run_id), self._reader.series(run_id)
        spans = self._spans(row)
        now = time.time()
        with self._live.lock:
            live = self._live.runs.get(run_id)
            detail = RunDetail(
                now=now,
                run=run_view(row, live, spans, self._phases, now),
                quantities=quantity_views(quantities, series),
                spans=[phase_view(span, self._phases) for span in spans],
                ranks=rank_views(live),
                probes=probe_views(live),
                unjudged=msgspec.structs.asdict(live.unjudged) if live else {},
                judged=list(live.judged) if live else [],
                outcomes=OUTCOMES,
            )
        return msgspec.json.encode(detail)

    def series(self, run_id: str) -> bytes:
        """What there are points of in a run, for those who ask for one series at a time."""
        self._row(run_id)
        ranks: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = {}
        for row in self._reader.series(run_id):
            ranks.setdefault((row.quantity, tuple(row.labels.items())), []).append(row.rank)
        names = [SeriesName(name, dict(labels), min(of), len(of)) for (name, labels), of in ranks.items()]
        return msgspec.json.encode(names)

    def points(self, run_id: str, query: Mapping[str, str]) -> bytes:
        """The points of one quantity: of every series, or with ``series=whole`` or ``layers`` of those alone.

        With ``labels``, a JSON object, of the series that has exactly these; with ``rank``, of that rank. With ``from`` and ``to``
        those between two steps, in more detail where some are left out otherwise.
        """
        self._row(run_id)
        name = query.get("quantity", "")
        after = _number(query, "after", default=0, low=0, high=2**62)
        limit = _number(query, "max", default=DEFAULT_POINTS, low=10, high=MAX_POINTS)
        which = query.get("series", "all")
        if which not in {"all", "whole", "layers"}:
            raise HTTPException(400, f"Got series={which!r}; need all, whole or layers. Leave it out for all.")
        known = [quantity.name for quantity in self._reader.quantities(run_id)]
        if name not in known:
            told = ", ".join(known) or "none yet"
            raise HTTPException(404, f"Got quantity={name!r}; this run measures {told}. Ask for one of these.")
        rows = [row for row in self._reader.series(run_id) if row.quantity == name]
        rows = [row for row in rows if which == "all" or ("layer" in row.labels) == (which == "layers")]
        if (labels := _labels(query)) is not None:
            rows = [row for row in rows if row.labels == labels]
        if "rank" in query:
            rank = _number(query, "rank", default=0, low=0, high=2**31)
            rows = [row for row in rows if row.rank == rank]
        limit = max(10, min(limit, MAX_POINTS_IN_ALL // max(len(rows), 1)))
        within = None
        if "from" in query or "to" in query:
            first, last = (
                _number(query, end, default=by, low=0, high=2**62) for end, by in (("from", 0), ("to", 2**62))
            )
            within = first, last
        ids = [row.id for row in rows]
        found = self._reader.points(ids, after, limit, within)
        if again := after > 0 and any(points.late for points in found.values()):
            found = self._reader.points(ids, 0, limit, within)
        frame = max((max(points.frame) for points in found.values() if points.frame), default=after)
        series = [_series(row.rank, row.labels, row.settings, found[row.id]) for row in rows]
        return msgspec.json.encode(PointsView(name, frame, series, again))

    def times(self, run_id: str, query: Mapping[str, str]) -> bytes:
        """When the reports of the run's lowest rank were made; some of them, where there are many."""
        self._row(run_id)
        after = _number(query, "after", default=0, low=0, high=2**62)
        found, by_job, late = self._reader.moments(run_id, after, MOST_TIMES)
        if again := after > 0 and late:
            found, by_job, _ = self._reader.moments(run_id, 0, MOST_TIMES)
        frame, step, life, time_, ran = (
            ([*column] for column in zip(*found, strict=True)) if found else ([], [], [], [], [])
        )
        clock = "job" if by_job else "collector"
        return msgspec.json.encode(TimesView(clock, max(frame, default=after), step, time_, ran, life, again))

    def transitions(self, run_id: str) -> bytes:
        """The transitions of a run in the order they became known, with all their evidence."""
        self._row(run_id)
        return msgspec.json.encode(self._reader.transitions(run_id))

    def record(self) -> bytes:
        """How often the claims of finished runs were right, as far as that is known by now."""
        return msgspec.json.encode(self._record.view())

    def _row(self, run_id: str) -> RunRow:
        for row in self._reader.runs(run_id):
            if row.id == run_id:
                return row
        raise HTTPException(
            404, f"Got the run {run_id!r}; the store holds no run of that id. See /api/runs for those it holds."
        )

    def _view(self, row: RunRow, now: float) -> RunView:
        spans = self._spans(row)
        with self._live.lock:
            return run_view(row, self._live.runs.get(row.id), spans, self._phases, now)

    def _spans(self, row: RunRow) -> list[Span]:
        with self._live.lock:
            if (live := self._live.runs.get(row.id)) is not None:
                return list(live.spans)
        key = row.id, row.last_heard
        if (known := self._stored.get(key)) is None:
            if len(self._stored) >= 2 * MAX_RUNS:
                self._stored.clear()
            known = self._stored[key] = spans_of(self._reader.standing(row.id))
        return known


def _series(rank: int, labels: dict[str, str], settings: dict[str, str], points: Points) -> SeriesView:
    return SeriesView(
        rank,
        labels,
        settings,
        points.folded,
        points.step,
        points.value,
        points.stderr,
        points.paired,
        points.n,
        points.outcome,
    )


def _labels(query: Mapping[str, str]) -> dict[str, str] | None:
    text = query.get("labels")
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        sentence = f'Got labels={text!r}; need a JSON object of names and values such as {{"layer": "fc1"}}. Leave it out for all.'
        raise HTTPException(400, sentence) from None


def _number(query: Mapping[str, str], name: str, *, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise HTTPException(
            400, f"Got {name}={text!r}; need a whole number from {low} to {high}. Leave it out for {default}."
        )
    return int(text)
