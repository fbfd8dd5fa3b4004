"""Pipeline: the life of a message in the collector, top to bottom. Read this file first.

    Hello     the stream is opened, or found again
    Schema    its columns get their series
    Report    Store keeps it → Live shows it → Phases judge it
    Goodbye   the stream is complete
    commit    all of it becomes durable; only then agents are acknowledged and sinks told

One thread drives it (the inlet's). A failed commit undoes everything since the last one, here as in
the store, and the agents send it again.
"""

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from collector.bounds import checked
from collector.health import Health
from collector.judges import Judges
from collector.live import Live, LiveRun, RankState
from collector.log import event, logger
from collector.phases import ALPHA, MACHINES, Machine, Transition
from collector.recall import recall
from collector.refusals import NoRoom, UnknownSchema, UnknownStream
from collector.retrials import Found
from collector.sinks import Sink
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.store.streams import Stream
from collector.wishes import wish_for
from probe_wire import Goodbye, Hello, Report, Run, Schema, Tighten, check

RECOVERED_RUNS = 20
"""Runs taken into memory when the collector starts; any other is when its agent is heard again."""
MOST_WISHED = 16
"""Wishes of one commit."""


class News(NamedTuple):
    """A transition that has just been committed."""

    run: Run
    transition: Transition


class Pipeline:
    """See the module.

    Attributes:
        judges: judge what is stored and what comes.
        keep_order: writes down what a person asks of a run; see `Store.put_order`.
    """

    def __init__(
        self,
        store: Store,
        live: Live,
        health: Health,
        sinks: Sequence[Sink],
        *,
        tick: Callable[[str, int, int], None],
        machines: tuple[Machine, ...] = MACHINES,
        alpha: float = ALPHA,
        run_series: int = 50_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._reader = Reader(store.path)
        self._live = live
        self._health = health
        self._sinks = sinks
        self._tick = tick
        self._machines = machines
        self._run_series = run_series
        self.keep_order = store.put_order
        self.judges = Judges(store, self._reader, live.lock, health, machines, alpha)
        self._clock = clock
        self._streams: dict[tuple[str, int, str], Stream] = {}
        self._newest: dict[tuple[str, int], int] = {}
        """The stream of each rank's newest life."""
        self.wish: Callable[[str, int, Tighten], None] = lambda *_: None
        """Asks the agent of a run and rank to measure something more often."""
        self._news: list[News] = []
        self._wishes: list[tuple[str, int, Tighten]] = []
        self._ticks: dict[str, tuple[int, int]] = {}
        self._reports = 0
        self._lost = 0

    def knows(self, hello: Hello) -> bool:
        """Whether the stream is in memory, so that its greeting costs next to nothing."""
        return (hello.run.id, hello.rank, hello.epoch) in self._streams

    # -- messages ---------------------------------------------------------------------------------

    def hello(self, hello: Hello, owner: str = "") -> Stream:
        """Open a stream or find it again. ``stream.high`` is what may be acknowledged after the commit.

        Raises:
            NotOwner: the run was opened by another key.
            NoRoom: there is none for another run.
        """
        now = self._clock()
        if not self._live.takes(hello.run.id, now):
            raise NoRoom
        key = (hello.run.id, hello.rank, hello.epoch)
        stream = self._store.put_hello(hello, now, owner, in_memory=key in self._streams)
        run = self._run(hello.run, now)
        if (known := self._streams.get(key)) is None:
            about = {"name": hello.run.name, "rank": hello.rank, "host": hello.run.host}
            event("stream.opened", run=hello.run.id, **about, resumed_at=stream.high)
        else:  # the same object stays in use: every session of the stream sees its progress
            known.high, known.lost, known.gap = stream.high, stream.lost, stream.gap
            stream = known
        if stream.gap:
            self._lost += stream.gap
            with self._live.lock:
                run.ranks.setdefault(stream.rank, RankState()).lost += stream.gap
            event("reports.lost", logging.WARNING, run=stream.run_id, rank=stream.rank, lost=stream.gap)
        self._streams[key] = stream
        if self._store.is_newest(stream):
            self._newest[stream.run_id, stream.rank] = stream.id
            with self._live.lock:
                run.greet(hello, now, finished=stream.finished)
        return stream

    def schema(self, stream: Stream, schema: Schema, body: bytes) -> None:
        """Learn a stream's columns.

        Raises:
            BadMessage: it is not taken, see `bounds`.
            NoRoom: those that report have as many series as may be in memory.
            UnknownStream: the agent must greet again.
        """
        run = self._live_run(stream)
        named = checked(schema, len(body), stream, run, self._run_series)
        self._make_room(len(named - run.series), run)
        self._store.put_schema(stream, schema, body)
        with self._live.lock:
            run.quantities.update({q.name: q for q in schema.quantities})
            run.series |= named

    def report(self, stream: Stream, report: Report, body: bytes) -> None:
        """Keep, show and judge one report; it is the next of its stream.

        Raises:
            UnknownSchema: the agent must send its schemas again.
            UnknownStream: the agent must greet again.
            BadMessage: the columns do not fit the schema.
        """
        schema = stream.schemas.get(report.schema)
        if schema is None:
            raise UnknownSchema
        run = self._live_run(stream)
        check(report, schema)
        now = self._clock()
        frame_id = self._store.put_report(stream, report, body, now)
        with self._live.lock:
            if self._is_newest(stream):
                run.show(stream.rank, schema, report, now)
            else:
                run.show_late(stream.rank, report, now)
        self._judge(run, stream.rank, schema, report, frame_id, now)
        self._reports += 1
        self._ticks[stream.run_id] = (report.step, frame_id)

    def goodbye(self, stream: Stream, goodbye: Goodbye, body: bytes) -> None:
        """The stream is complete."""
        run = self._live_run(stream)
        now = self._clock()
        frame_id = self._store.put_goodbye(stream, goodbye, body, now)
        if self._is_newest(stream):
            with self._live.lock:
                run.part(stream.rank, goodbye, now)
        self.judges.keep(run, frame_id, at_once=True)
        self._ticks[stream.run_id] = (goodbye.step, frame_id)
        event("stream.finished", run=stream.run_id, rank=stream.rank, step=goodbye.step, reason=goodbye.reason)

    def _is_newest(self, stream: Stream) -> bool:
        """Whether no later life of its rank has greeted: what an earlier one left is delivered at any time."""
        return self._newest.get((stream.run_id, stream.rank)) == stream.id

    def commit(self) -> list[News]:
        """Make all since the last commit durable, then tell sinks and the page. Returns the news."""
        with self._health.commit_seconds.time():
            self._store.commit()
        self._health.reports.inc(self._reports)
        self._health.lost.inc(self._lost)
        news, ticks, wishes = self._news, self._ticks, self._wishes
        self._news, self._ticks, self._wishes, self._reports, self._lost = [], {}, [], 0, 0
        with self._live.lock:
            for run_id in ticks:
                if (run := self._live.runs.get(run_id)) is not None:
                    self.judges.show(run)
        for wish in wishes:
            self.wish(*wish)
        for item in news:
            for sink in self._sinks:
                self._tell(sink, item)
        for run_id, (step, frame_id) in ticks.items():
            self._tick(run_id, step, frame_id)
        return news

    def check(self) -> None:
        """See that something can be made durable.

        Raises:
            sqlite3.Error: it cannot.
        """
        self._store.check()

    def upkeep(self) -> None:
        """A little of what keeps the store small, between two commits; what is gone from it is forgotten here too."""
        if gone := self._store.tidy(self._clock()):
            with self._live.lock:
                self._live.runs = {run_id: run for run_id, run in self._live.runs.items() if run_id not in gone}
            self._forget_gone()

    @staticmethod
    def _tell(sink: Sink, news: News) -> None:
        try:
            sink.handle(news.run, news.transition)
        except Exception:  # noqa: BLE001 - what is committed must be acknowledged, whatever a sink does
            logger.exception("sink.failed")

    def rollback(self) -> None:
        """Undo everything since the last commit; what is in memory is made anew from the store when next heard of."""
        self._store.rollback()
        self._streams.clear()
        self._newest.clear()
        self.judges.undo()
        self._news, self._ticks, self._wishes, self._reports, self._lost = [], {}, [], 0, 0
        with self._live.lock:
            self._live.runs.clear()

    # -- phases -----------------------------------------------------------------------------------

    def _judge(self, run: LiveRun, rank: int, schema: Schema, report: Report, frame_id: int, now: float) -> None:
        transitions = self.judges.judge(run.run.id, frame_id, rank, schema, report)
        self.judges.keep(run, frame_id)
        for transition in transitions:
            self._announce(run, transition, frame_id, now)
            if transition.state == "suspected":
                wish = wish_for(transition, self.judges[run.run.id])
                if wish is not None and len(self._wishes) < MOST_WISHED:
                    self._wishes.append((run.run.id, rank, wish))

    def _announce(self, run: LiveRun, transition: Transition, frame_id: int, now: float) -> None:
        with self._live.lock:
            run.enter(transition, now)
        self._store.put_transition(run.run.id, transition, frame_id, now)
        self._news.append(News(run.run, transition))
        event(
            f"phase.{transition.state}",
            run=run.run.id,
            machine=transition.machine,
            phase=transition.to_phase,
            happened=transition.happened_step,
            known=transition.known_step,
            confidence=transition.confidence if transition.evidence.alpha < 1 else "not bounded",
            evidence=transition.evidence.sentence,
        )

    def _catch_up(self, run: LiveRun, found: Sequence[Found]) -> None:
        """Tell what a run's stored reports made known only now, and keep that it is told."""
        for frame_id, transition in found:
            self._announce(run, transition, frame_id, self._clock())
        newest = self._reader.last_frame()
        self.judges.keep(run, newest, at_once=True)
        with self._live.lock:
            self.judges.show(run)
        self._ticks[run.run.id] = (run.step, newest)

    def take_over(self) -> bool:
        """Judge such runs here from now on; to be called when nothing waits to be committed. Whether there were any."""
        for run, found in (over := self.judges.take_over(self._live)):
            self._catch_up(run, found)
        return bool(over)

    # -- runs in memory ---------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up the runs as they stood when the collector last stopped, unfinished ones first."""
        rows = [row for row in self._reader.runs() if row.thinned_at is None]
        rows.sort(key=lambda row: row.finished is not None)  # stable: the latest heard first
        try:
            for row in rows[:RECOVERED_RUNS]:
                identity = Run(**{name: getattr(row, name) for name in Run.__struct_fields__})
                self._run(identity, row.first_heard)
            self.commit()  # what is known only now, because the life before ended while it judged
        except (sqlite3.Error, OSError):
            logger.exception("recovery.not_kept")
            self.rollback()
        if rows:
            event("runs.recovered", runs=min(len(rows), RECOVERED_RUNS), left_out=max(0, len(rows) - RECOVERED_RUNS))

    def _live_run(self, stream: Stream) -> LiveRun:
        run = self._live.runs.get(stream.run_id)
        if run is None or self._streams.get((stream.run_id, stream.rank, stream.epoch)) is not stream:
            raise UnknownStream  # the run made room, and may be back since another of its ranks has greeted
        return run

    def _run(self, identity: Run, now: float) -> LiveRun:
        """The live run of this identity; one the store already knows is made anew from what is stored."""
        if (run := self._live.runs.get(identity.id)) is not None:
            return run
        with self._live.lock:
            run = self._live.open(identity, now)
            run.transition_counts = Counter({(m.name, turn.to_phase): 0 for m in self._machines for turn in m.turns})
        self._forget_gone()
        if (missed := recall(run, self._live.lock, self._reader, self.judges)) or self.judges.judged_anew(identity.id):
            self._catch_up(run, missed)
        self._make_room(0, run)
        return run

    def _make_room(self, series: int, run: LiveRun) -> None:
        with self._live.lock:
            before, found = len(self._live.runs), self._live.has_room(series, run, self._clock())
        if len(self._live.runs) < before:
            self._forget_gone()
        if not found:
            raise NoRoom

    def _forget_gone(self) -> None:
        """Let go of what belongs to runs that made room."""
        self._streams = {key: stream for key, stream in self._streams.items() if key[0] in self._live.runs}
        self._newest = {key: stream_id for key, stream_id in self._newest.items() if key[0] in self._live.runs}
        self.judges.forget_all_but(self._live.runs)
